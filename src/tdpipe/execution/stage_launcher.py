"""Starts the stage processes and ends them, whatever happens in between.

Each is a fresh interpreter, so that a user's script needs no `if __name__ == "__main__"` and
nothing of the engine's state is copied. Its standard input stays open as a life line: when the
engine dies, even by kill -9, every stage sees the end of it and leaves.
"""

import subprocess
import sys
import time

from tdpipe.core.errors import StageFailed
from tdpipe.execution.wire import StageSpec, encode

# Between one way of ending the stages and the next, harder one.
GRACE_S = 2.0


class StageProcesses:
    """The stage processes of one pipeline, in order of stages."""

    def __init__(self, specs: list[StageSpec]) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            for spec in specs:
                self._processes.append(_start(spec))
        except BaseException:
            self.end()
            raise

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def check(self) -> None:
        """Raises StageFailed when a stage has ended by itself."""
        for stage, process in enumerate(self._processes):
            status = process.poll()
            if status is not None:
                how = f"signal {-status}" if status < 0 else f"exit status {status}"
                raise StageFailed(stage, f"its process ended ({how})")

    def end(self) -> None:
        """Wait for the stages to leave, then make them; none is left when this returns."""
        for insist in (None, _cut_life_line, subprocess.Popen.terminate, subprocess.Popen.kill):
            left = [process for process in self._processes if process.poll() is None]
            for process in left:
                if insist is not None:
                    insist(process)
            _wait_all(left, GRACE_S)
        for process in self._processes:
            _cut_life_line(process)


def _start(spec: StageSpec) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tdpipe.execution.stage_worker"]
    # Its own session: Ctrl-C on the terminal reaches the engine only, which then ends the stages.
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    assert process.stdin is not None
    message = encode(spec)
    process.stdin.write(len(message).to_bytes(4, "little") + message)
    process.stdin.flush()
    return process


def _cut_life_line(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()


def _wait_all(processes: list[subprocess.Popen[bytes]], limit_s: float) -> None:
    deadline_s = time.monotonic() + limit_s
    for process in processes:
        try:
            process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            return
