"""Starts the stage processes and ends them, whatever happens in between.

Each is a fresh interpreter, so that a user's script needs no `if __name__ == "__main__"` and
nothing of the engine's state is copied. Its standard input stays open as a life line: when the
engine dies, even by kill -9, every stage sees the end of it and leaves (life_line.py).
"""

import subprocess
import sys
import time
from pathlib import Path

import psutil

from tdpipe.core.errors import FaultKind, StageFailed
from tdpipe.execution.failure_cause import cause_of_end
from tdpipe.execution.life_line import ask_to_be_woken
from tdpipe.execution.stage_watch import Vitals
from tdpipe.execution.wire import StageSpec, encode

# Between one way of ending the stages and the next, harder one.
GRACE_S = 2.0
# What the system needs to take a killed process apart, at most.
KILL_LIMIT_S = 30.0


class StageProcesses:
    """The processes of one pipeline, in order of ranks.

    Args:
        folder: of the sockets, which a stage removes when the engine is gone.
    """

    def __init__(self, specs: list[StageSpec], folder: Path) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._specs = specs
        try:
            for spec in specs:
                self._processes.append(_start(spec, folder))
        except BaseException:
            self.end()
            raise

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def ended(self) -> list[StageFailed]:
        """A failure for each process that is no more."""
        statuses = [process.poll() for process in self._processes]
        return [
            StageFailed(
                spec.stage, cause_of_end(status), kind=FaultKind.DIED, tensor_rank=spec.tensor_rank
            )
            for spec, status in zip(self._specs, statuses, strict=True)
            if status is not None
        ]

    def vitals(self) -> list[Vitals]:
        """What the system says of each process."""
        return [_vitals(process.pid) for process in self._processes]

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

    def kill(self) -> None:
        """End the stages now, also those that are stopped or hang; none is left afterwards."""
        for process in self._processes:
            process.kill()
        _wait_all(self._processes, KILL_LIMIT_S)
        for process in self._processes:
            _cut_life_line(process)


def _start(spec: StageSpec, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tdpipe.execution.stage_worker", str(folder)]
    # Its own session: Ctrl-C on the terminal reaches the engine only, which then ends the stages.
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, start_new_session=True, preexec_fn=ask_to_be_woken
    )
    assert process.stdin is not None
    message = encode(spec)
    process.stdin.write(len(message).to_bytes(4, "little") + message)
    process.stdin.flush()
    return process


def _vitals(pid: int) -> Vitals:
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        is_stopped = process.status() == psutil.STATUS_STOPPED
    except psutil.Error:  # it has just ended, which `ended` says next time
        return Vitals(False, 0.0)
    return Vitals(is_stopped, times.user + times.system)


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
