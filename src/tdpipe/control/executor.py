"""The seam between control and execution. Two implementations: real stages and simulated ones."""

from typing import Protocol

from tdpipe.core.batch_plan import BatchPlan, BatchResult


class Executor(Protocol):
    """Runs batches in the order submitted, several at once, one per stage.

    `depth` is how many batches may be on their way: one per stage and one whose metadata waits,
    so that the first stage never idles for the engine.
    """

    depth: int

    def has_room(self) -> bool:
        """Whether one more batch may be submitted now."""
        ...

    def now_s(self) -> float:
        """This executor's clock, wall or virtual, in seconds."""
        ...

    def submit(self, plan: BatchPlan) -> None:
        """Hand over a batch; never blocks. Raises StageFailed when a stage is gone."""
        ...

    def wait(self, until_s: float | None) -> list[BatchResult]:
        """Results in order of completion; empty when until_s passes first. None: no limit."""
        ...

    def close(self) -> None:
        """End all stages and free what they held; may be called twice."""
        ...
