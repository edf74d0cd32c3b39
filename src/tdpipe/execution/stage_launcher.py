"""Starts the stage processes of this machine and ends them, whatever happens in between."""

import os
from pathlib import Path

import psutil

from tdpipe.core.errors import FaultKind, StageFailed
from tdpipe.execution.child_process import Child, cut_life_line, start_child, wait_all
from tdpipe.execution.failure_cause import cause_of_end
from tdpipe.execution.huge_pages import with_huge_pages
from tdpipe.execution.stage_watch import Vitals
from tdpipe.execution.wire import StageSpec, encode

WORKER = "tdpipe.execution.stage_worker"
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
        self._processes: list[Child] = []
        self._specs = specs
        try:
            for spec in specs:
                environment = with_huge_pages(os.environ) if spec.device == "cpu" else {}
                self._processes.append(start_child(WORKER, folder, encode(spec), environment))
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
        for insist in (None, cut_life_line, Child.terminate, Child.kill):
            left = [process for process in self._processes if process.poll() is None]
            for process in left:
                if insist is not None:
                    insist(process)
            wait_all(left, GRACE_S)
        for process in self._processes:
            cut_life_line(process)

    def kill(self) -> None:
        """End the stages now, also those that are stopped or hang; none is left afterwards."""
        for process in self._processes:
            process.kill()
        wait_all(self._processes, KILL_LIMIT_S)
        for process in self._processes:
            cut_life_line(process)


def _vitals(pid: int) -> Vitals:
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        status = process.status()
    except psutil.Error:  # it has just ended, which `ended` says next time
        return Vitals(False, 0.0)
    is_stopped, is_runnable = status == psutil.STATUS_STOPPED, status == psutil.STATUS_RUNNING
    return Vitals(is_stopped, times.user + times.system, is_runnable)
