"""Busy and idle time of the stages, and the phases of a run, computed from its record.

A phase lasts from the end of the phase before it (on the last stage, where batches end in order)
to its own last batch's end there, so the phases of a run add up to the run.
"""

from dataclasses import dataclass

from tdpipe.core.batch_plan import Phase
from tdpipe.tracing.run_trace import RunTrace


@dataclass(frozen=True, slots=True)
class PhaseInterval:
    """Consecutive batches of one phase: batch ids first..last, seconds on the last stage."""

    phase: Phase
    first_batch: int
    last_batch: int
    start_s: float
    end_s: float

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


def busy_shares(trace: RunTrace, window: tuple[float, float] | None = None) -> list[float]:
    """Share of the window (default: first span's start to last span's end) each stage works."""
    if not trace.spans:
        return [0.0] * trace.num_stages
    if window is None:
        window = (min(s.start_s for s in trace.spans), max(s.end_s for s in trace.spans))
    low, high = window
    busy_s = [0.0] * trace.num_stages
    for span in trace.spans:
        busy_s[span.stage] += max(0.0, min(span.end_s, high) - max(span.start_s, low))
    return [time_s / (high - low) if high > low else 0.0 for time_s in busy_s]


def phase_intervals(trace: RunTrace) -> list[PhaseInterval]:
    """The phases of a run in order."""
    last_stage = trace.num_stages - 1
    ends = {span.batch_id: span.end_s for span in trace.spans if span.stage == last_stage}
    begin_s = min((span.start_s for span in trace.spans), default=0.0)
    intervals: list[PhaseInterval] = []
    for record in trace.batches:
        if record.batch_id not in ends:
            continue
        end_s = ends[record.batch_id]
        if intervals and intervals[-1].phase is record.phase:
            open_one = intervals.pop()
            first, start_s = open_one.first_batch, open_one.start_s
        else:
            first, start_s = record.batch_id, intervals[-1].end_s if intervals else begin_s
        intervals.append(PhaseInterval(record.phase, first, record.batch_id, start_s, end_s))
    return intervals


def decode_window_busy_shares(
    trace: RunTrace, min_requests: int
) -> tuple[list[float], tuple[float, float]]:
    """Busy share of each stage in the longest stretch of decode batches that is fully loaded.

    The stretch is within one decode phase; its batches were submitted while at least
    `min_requests` requests were resident. It begins when the first of them ends on the last stage
    (the pipeline is full) and ends when the last of them leaves the first stage.
    Returns (shares per stage, (start_s, end_s)); shares are 0 when there is no such stretch.
    """
    stretches: list[list[int]] = [[]]
    for record in trace.batches:
        loaded = record.phase is Phase.DECODE and record.num_resident >= min_requests
        if loaded:
            stretches[-1].append(record.batch_id)
        elif stretches[-1]:
            stretches.append([])
    longest = max(stretches, key=len)
    if len(longest) < 2:
        return [0.0] * trace.num_stages, (0.0, 0.0)
    ends = {(span.stage, span.batch_id): span.end_s for span in trace.spans}
    window = (ends[trace.num_stages - 1, longest[0]], ends[0, longest[-1]])
    return busy_shares(trace, window), window
