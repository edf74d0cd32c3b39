"""A stage's end of the life line: when the engine is gone, whatever the cause, the stage goes too.

The life line is the stage's standard input, which the engine keeps open. A stopped process would
not notice its end; therefore the system continues it (SIGCONT) when the engine's process dies.
"""

import ctypes
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO, NoReturn

PR_SET_PDEATHSIG = 1
REMOVAL_ATTEMPTS = 100
# Loaded here, not in the new process, where no more than one call should happen.
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def ask_to_be_woken() -> None:
    """Have the system continue this process, if it is stopped, when the engine's ends.

    Called in the new process before its program begins, so that no moment is left out. The signal
    comes at the end of the *thread* that started the process. A thread that ends in a living engine
    does no harm: a running process ignores it.
    """
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGCONT)


def first_message(stdin: BinaryIO, folder: Path) -> bytes:
    """What this process was started for; leaves at once if the engine is gone before it is told."""
    size = int.from_bytes(stdin.read(4), "little")
    told = stdin.read(size)
    if not told or len(told) < size:
        leave_with_engine(folder)
    return told


def hold_life_line(stdin: BinaryIO, folder: Path) -> None:
    """Watch the life line on a thread; at its end remove `folder` and leave at once."""
    watcher = threading.Thread(target=_end_with_engine, args=(stdin, folder), daemon=True)
    watcher.start()


def leave_with_engine(folder: Path) -> NoReturn:
    """End this process and remove the engine's folder, which the engine no longer can."""
    # Another stage, or a thread of this one, may just be making a file in it.
    for _ in range(REMOVAL_ATTEMPTS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            break
        time.sleep(0.01)
    os._exit(2)


def _end_with_engine(stdin: BinaryIO, folder: Path) -> None:
    stdin.read()
    leave_with_engine(folder)
