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
from pathlib import Path
from typing import BinaryIO

PR_SET_PDEATHSIG = 1


def hold_life_line(stdin: BinaryIO, folder: Path) -> None:
    """Watch the life line on a thread; at its end remove `folder` and leave at once."""
    if sys.platform == "linux":
        # The signal comes at the end of the *thread* that started this process. A thread that ends
        # in a living engine does no harm: a running process ignores it.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGCONT)
    watcher = threading.Thread(target=_end_with_engine, args=(stdin, folder), daemon=True)
    watcher.start()


def _end_with_engine(stdin: BinaryIO, folder: Path) -> None:
    stdin.read()
    # The engine removes its own folder if it still can; each of the stages may be the last.
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(2)
