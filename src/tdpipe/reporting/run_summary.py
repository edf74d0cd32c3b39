"""The block of figures printed at the end of every run."""

from dataclasses import dataclass

from tdpipe.core.batch_plan import Phase
from tdpipe.reporting.bubbles import busy_shares, phase_intervals
from tdpipe.tracing.run_trace import RunTrace


@dataclass(frozen=True, slots=True)
class RunBound:
    """The least time that the stages allow for what a run finished, under any schedule.

    `name` says what sets it: compute, memory or chain. `is_estimated`: the stage times are those
    of a catalogue, not measured on this machine.
    """

    seconds: float
    name: str
    is_estimated: bool


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Totals of one run; times in seconds, shares between 0 and 1.

    `wall_s` runs from the first batch's submission to the last result; `recomputed_tokens` are
    prompt and output tokens prefilled again after a preemption; `cached_share` of the prompt tokens
    were not computed, because another request's prompt begins with them; `bound` is None for a run
    that finished nothing; `num_restarts` counts how often failed stages were started again;
    `collective_share` of the stages' work was sums and gathers among the ranks that share a stage.
    """

    scheduler: str
    partition: tuple[int, ...]
    num_requests: int
    num_failed: int
    prompt_tokens: int
    output_tokens: int
    wall_s: float
    prefill_s: float
    decode_s: float
    mixed_s: float
    num_batches: int
    num_switches: int
    num_preemptions: int
    recomputed_tokens: int
    peak_kv_share: float
    stage_busy_shares: tuple[float, ...]
    cached_share: float = 0.0
    bound: RunBound | None = None
    num_restarts: int = 0
    collective_share: float = 0.0

    @property
    def bound_share(self) -> float | None:
        """The bound as a share of the run's time; None without a bound."""
        if self.bound is None or self.wall_s <= 0:
            return None
        return self.bound.seconds / self.wall_s

    @property
    def output_tokens_per_s(self) -> float:
        return self.output_tokens / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def total_tokens_per_s(self) -> float:
        tokens = self.prompt_tokens + self.output_tokens
        return tokens / self.wall_s if self.wall_s > 0 else 0.0

    def __str__(self) -> str:
        layers = ",".join(map(str, self.partition))
        busy = "  ".join(
            f"stage {stage}: {share:.1%} busy, {1 - share:.1%} bubbles"
            for stage, share in enumerate(self.stage_busy_shares)
        )
        failed = f", {self.num_failed} failed" if self.num_failed else ""
        lines = (
            f"requests     {self.num_requests} finished{failed}",
            f"tokens       {self.prompt_tokens} prompt, {self.output_tokens} output",
            f"time         {self.wall_s:.2f} s (prefill {self.prefill_s:.2f}, decode "
            f"{self.decode_s:.2f}, mixed {self.mixed_s:.2f})",
            f"throughput   {self.output_tokens_per_s:.1f} output tokens/s, "
            f"{self.total_tokens_per_s:.1f} prompt + output tokens/s",
            f"schedule     {self.scheduler}: {self.num_batches} batches, "
            f"{self.num_switches} phase switches, {self.num_preemptions} preemptions "
            f"({self.recomputed_tokens} tokens recomputed)",
            f"KV cache     {self.peak_kv_share:.1%} at the peak",
            f"stages       {layers} layers; {busy}",
        )
        more = (
            *self._rank_lines(),
            *self._prefix_lines(),
            *self._bound_lines(),
            *self._fault_lines(),
        )
        return "\n".join([*lines, *more])

    def _fault_lines(self) -> list[str]:
        return [f"faults       stages started again: {self.num_restarts}"] * bool(self.num_restarts)

    def _rank_lines(self) -> list[str]:
        if not self.collective_share:
            return []
        return [f"ranks        {self.collective_share:.1%} of the stages' work was all-reduces"]

    def _prefix_lines(self) -> list[str]:
        if not self.cached_share:
            return []
        return [f"prefixes     {self.cached_share:.1%} of the prompt tokens came from the cache"]

    def _bound_lines(self) -> list[str]:
        bound, share = self.bound, self.bound_share
        if bound is None or share is None:
            return []
        source = "; estimated, `tdpipe profile` measures" if bound.is_estimated else ""
        return [
            f"bound        {share:.1%} of what the stages allow: at least {bound.seconds:.2f} s "
            f"({bound.name}{source})"
        ]


@dataclass(frozen=True, slots=True)
class RunTotals:
    """What the front end counts itself.

    `recomputed_tokens` is None where nobody counted: then it is what was prefilled beyond the
    prompts, which holds for a run whose requests have all finished.
    `requested_tokens` are the prompt tokens of the finished requests, n times those of a job of n
    completions; `cached_tokens` of them were not computed. 0 and 0 for what is not known.
    """

    scheduler: str
    partition: tuple[int, ...]
    num_requests: int
    num_failed: int
    prompt_tokens: int
    output_tokens: int
    num_preemptions: int
    peak_kv_blocks: int
    wall_s: float
    requested_tokens: int = 0
    cached_tokens: int = 0
    bound: RunBound | None = None
    recomputed_tokens: int | None = None
    num_restarts: int = 0


def summarize(trace: RunTrace, totals: RunTotals) -> RunSummary:
    """Combine the front end's counts with what the trace shows."""
    intervals = phase_intervals(trace)
    time_s = dict.fromkeys(Phase, 0.0)
    for interval in intervals:
        time_s[interval.phase] += interval.duration_s
    requested = totals.requested_tokens or totals.prompt_tokens
    recomputed = totals.recomputed_tokens
    if recomputed is None:
        prefilled = sum(record.prefill_tokens for record in trace.batches)
        recomputed = max(0, prefilled - requested + totals.cached_tokens)
    return RunSummary(
        scheduler=totals.scheduler,
        partition=totals.partition,
        num_requests=totals.num_requests,
        num_failed=totals.num_failed,
        prompt_tokens=totals.prompt_tokens,
        output_tokens=totals.output_tokens,
        wall_s=totals.wall_s,
        prefill_s=time_s[Phase.PREFILL],
        decode_s=time_s[Phase.DECODE],
        mixed_s=time_s[Phase.MIXED],
        num_batches=len(trace.batches),
        num_switches=max(0, len(intervals) - 1),
        num_preemptions=totals.num_preemptions,
        recomputed_tokens=recomputed,
        peak_kv_share=totals.peak_kv_blocks / trace.num_blocks,
        stage_busy_shares=tuple(busy_shares(trace)),
        cached_share=totals.cached_tokens / max(1, requested),
        bound=totals.bound,
        num_restarts=totals.num_restarts,
        collective_share=_collective_share(trace),
    )


def _collective_share(trace: RunTrace) -> float:
    busy_s = sum(span.end_s - span.start_s for span in trace.spans)
    return sum(span.collective_s for span in trace.spans) / busy_s if busy_s > 0 else 0.0
