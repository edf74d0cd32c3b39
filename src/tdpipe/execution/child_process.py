"""Processes of ours that end with this one: each has a life line, its standard input.

Each is a fresh interpreter, so that a user's script needs no `if __name__ == "__main__"` and
nothing of this process's state is copied. Its standard input stays open: when this process dies,
even by kill -9, the other one sees the end of it and leaves (life_line.py).
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tdpipe.execution.life_line import ask_to_be_woken

Child = subprocess.Popen[bytes]


def start_child(
    module: str, folder: Path, message: bytes, environment: Mapping[str, str] | None = None
) -> Child:
    """Start a module whose first message, on standard input, is this one.

    Args:
        folder: what it removes when this process is gone; its only argument.
        environment: what is added to this process's own.
    """
    # Its own session: Ctrl-C on the terminal reaches this process only, which then ends the others.
    process = subprocess.Popen(
        [sys.executable, "-m", module, str(folder)],
        stdin=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=ask_to_be_woken,
        env={**os.environ, **(environment or {})},
    )
    assert process.stdin is not None
    process.stdin.write(len(message).to_bytes(4, "little") + message)
    process.stdin.flush()
    return process


def cut_life_line(process: Child) -> None:
    """Let the process think that this one is gone."""
    assert process.stdin is not None
    process.stdin.close()


def wait_all(processes: Sequence[Child], limit_s: float) -> None:
    """Wait for all to end, for limit_s together."""
    deadline_s = time.monotonic() + limit_s
    for process in processes:
        try:
            process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            return
