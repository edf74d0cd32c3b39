"""The figures of a run on replicas: all together, and a line for each."""

from dataclasses import dataclass


@dataclass(slots=True)
class ReplicaTotals:
    """What one replica did in a run; tokens are those of the jobs that it finished.

    `busy_s` is the mean over its stages of the seconds that they computed; None where it did not
    live to tell. `lost` says why it is gone.
    """

    num_requests: int = 0
    num_failed: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    busy_s: float | None = None
    num_preemptions: int = 0
    num_restarts: int = 0
    lost: str = ""


@dataclass(frozen=True, slots=True)
class PoolSummary:
    """Totals of one run on replicas.

    `wall_s` runs from the first job's way out to the last result; `num_moved` jobs were taken from
    a replica at which they waited and given to another.
    """

    replicas: tuple[ReplicaTotals, ...]
    wall_s: float
    num_failed: int = 0
    num_moved: int = 0

    @property
    def num_requests(self) -> int:
        return sum(one.num_requests for one in self.replicas)

    @property
    def prompt_tokens(self) -> int:
        return sum(one.prompt_tokens for one in self.replicas)

    @property
    def output_tokens(self) -> int:
        return sum(one.output_tokens for one in self.replicas)

    @property
    def output_tokens_per_s(self) -> float:
        return self._per_s(self.output_tokens)

    def __str__(self) -> str:
        failed = f", {self.num_failed} failed" if self.num_failed else ""
        total = self._per_s(self.prompt_tokens + self.output_tokens)
        lines = [
            f"requests     {self.num_requests} finished{failed}",
            f"tokens       {self.prompt_tokens} prompt, {self.output_tokens} output",
            f"time         {self.wall_s:.2f} s",
            f"throughput   {self.output_tokens_per_s:.1f} output tokens/s, "
            f"{total:.1f} prompt + output tokens/s",
            f"replicas     {len(self.replicas)}, {self.num_moved} requests moved between them",
        ]
        lines += [self._line(number, one) for number, one in enumerate(self.replicas)]
        restarts = sum(one.num_restarts for one in self.replicas)
        lines += [f"faults       stages started again: {restarts}"] * bool(restarts)
        return "\n".join(lines)

    def _line(self, number: int, one: ReplicaTotals) -> str:
        line = (
            f"replica {number:<5}{one.num_requests} requests, {one.output_tokens} output tokens, "
            f"{self._per_s(one.output_tokens):.1f} output tokens/s"
        )
        if one.busy_s is not None and self.wall_s > 0:
            share = min(1.0, one.busy_s / self.wall_s)
            line += f"; {share:.1%} busy, {1 - share:.1%} idle"
        return f"{line}; lost: {one.lost}" if one.lost else line

    def _per_s(self, count: int) -> float:
        return count / self.wall_s if self.wall_s > 0 else 0.0
