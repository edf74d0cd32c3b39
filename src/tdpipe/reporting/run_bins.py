"""A run cut into equal pieces of time: what charts draw, however many batches there were.

Times are seconds from the first submission. A batch's tokens count evenly over the time since the
batch before it ended on the last stage, where batches end in order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tdpipe.core.batch_plan import Phase
from tdpipe.reporting.bubbles import PhaseInterval, phase_intervals
from tdpipe.tracing.run_trace import BatchRecord, RunTrace

MOST_BINS = 240
# Phases that are more than this are shaded by the bin: the one that fills most of it.
MOST_PHASES = 150


@dataclass(frozen=True, slots=True)
class RunClock:
    """When a run began, on the clock of its trace, and how many seconds it took."""

    origin_s: float
    length_s: float


@dataclass(frozen=True, slots=True)
class RunBins:
    """One value per bin of `width_s` seconds; tokens per second, shares of the cache, requests."""

    width_s: float
    output_rates: tuple[float, ...]
    prompt_rates: tuple[float, ...]
    kv_shares: tuple[float, ...]
    waiting: tuple[float, ...]
    resident: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PhaseBand:
    """A stretch of one phase."""

    phase: Phase
    start_s: float
    end_s: float


def run_clock(trace: RunTrace) -> RunClock:
    """From the first submission to the end of the last work."""
    origin_s = min((record.submitted_s for record in trace.batches), default=0.0)
    end_s = max((span.end_s for span in trace.spans), default=origin_s)
    return RunClock(origin_s, max(end_s - origin_s, 1e-6))


def run_bins(trace: RunTrace) -> RunBins:
    """The run in as many bins as it has batches for, at most MOST_BINS."""
    clock = run_clock(trace)
    count = max(1, min(MOST_BINS, len(trace.batches) // 2))
    width_s = clock.length_s / count
    outputs, prompts = [0.0] * count, [0.0] * count
    ends = _ends(trace)
    before_s = 0.0
    for record in trace.batches:
        if record.batch_id in ends:
            end_s = ends[record.batch_id] - clock.origin_s
            spread(outputs, width_s, before_s, end_s, record.num_sampled)
            spread(prompts, width_s, before_s, end_s, record.prefill_tokens)
            before_s = max(before_s, end_s)
    states = _states(trace.batches, clock, count)
    return RunBins(
        width_s,
        tuple(tokens / width_s for tokens in outputs),
        tuple(tokens / width_s for tokens in prompts),
        tuple(record.kv_used_blocks / trace.num_blocks for record in states),
        tuple(float(record.num_waiting) for record in states),
        tuple(float(record.num_resident) for record in states),
    )


def spread(bins: list[float], width_s: float, start_s: float, end_s: float, amount: float) -> None:
    """Add the amount to the bins between two times, to each by its share of that time."""
    last = len(bins) - 1
    first, final = (max(0, min(last, int(time_s / width_s))) for time_s in (start_s, end_s))
    if first == final or end_s <= start_s:
        bins[final] += amount
        return
    for index in range(first, final + 1):
        low, high = max(start_s, index * width_s), min(end_s, (index + 1) * width_s)
        if index == last:
            high = end_s
        bins[index] += amount * max(0.0, high - low) / (end_s - start_s)


def phase_bands(trace: RunTrace) -> list[PhaseBand]:
    """The phases of the run; where they are too many to tell apart, those that prevail."""
    clock = run_clock(trace)
    intervals = phase_intervals(trace)
    if len(intervals) > MOST_PHASES:
        return _prevailing(intervals, clock)
    return [
        PhaseBand(one.phase, one.start_s - clock.origin_s, one.end_s - clock.origin_s)
        for one in intervals
    ]


def _prevailing(intervals: Sequence[PhaseInterval], clock: RunClock) -> list[PhaseBand]:
    width_s = clock.length_s / MOST_BINS
    times_s = {phase: [0.0] * MOST_BINS for phase in Phase}
    for one in intervals:
        start_s, end_s = one.start_s - clock.origin_s, one.end_s - clock.origin_s
        spread(times_s[one.phase], width_s, start_s, end_s, one.duration_s)
    bands: list[PhaseBand] = []
    for index in range(MOST_BINS):
        phase = max(Phase, key=lambda one: times_s[one][index])
        start_s = index * width_s
        if bands and bands[-1].phase is phase:
            start_s = bands.pop().start_s
        bands.append(PhaseBand(phase, start_s, (index + 1) * width_s))
    return bands


def _ends(trace: RunTrace) -> dict[int, float]:
    last = trace.num_stages - 1
    return {span.batch_id: span.end_s for span in trace.spans if span.stage == last}


def _states(batches: Sequence[BatchRecord], clock: RunClock, count: int) -> list[BatchRecord]:
    """For each bin the batch in it before which the cache was fullest, or the last one before."""
    states: list[BatchRecord | None] = [None] * count
    for record in batches:
        place = (record.submitted_s - clock.origin_s) / clock.length_s
        index = max(0, min(count - 1, int(place * count)))
        held = states[index]
        if held is None or record.kv_used_blocks > held.kv_used_blocks:
            states[index] = record
    filled: list[BatchRecord] = []
    for state in states:
        if state is not None or filled:
            filled.append(state or filled[-1])
    return filled
