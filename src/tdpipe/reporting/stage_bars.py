"""What each stage did when, as bars to draw: every batch of a window, or a whole run in cells.

A run may have a million batches. Over all of it, time is cut into cells as wide as can be seen;
a cell shows the phase that fills most of its work, and how much of the cell is work.
"""

from dataclasses import dataclass

from tdpipe.core.batch_plan import Phase
from tdpipe.reporting.run_bins import run_clock, spread
from tdpipe.tracing.run_trace import RunTrace

# Cells of all stages together, and of one.
MOST_CELLS = 16000
MOST_CELLS_OF_A_STAGE = 1000
# Steps in which a cell's work is told.
LEVELS = 10
# Batches that are drawn one by one, for each stage.
MOST_DRAWN = 120
# Batches that a close look holds, for each stage.
BATCHES_LOOKED_AT = 10


@dataclass(frozen=True, slots=True)
class StageBar:
    """A stretch of work on a stage; `busy` is the share of it that was work, `batch` its batch.

    Times are seconds from the first submission; `batch` is None for a stretch of several.
    """

    stage: int
    phase: Phase
    start_s: float
    end_s: float
    busy: float = 1.0
    batch: int | None = None


def whole_run(trace: RunTrace) -> list[StageBar]:
    """Bars of the whole run: the batches themselves where they are few, else cells."""
    if is_drawn_by_batches(trace):
        return _every_span(trace, 0.0, run_clock(trace).length_s)
    bars: list[StageBar] = []
    for stage, phases in enumerate(_cell_work(trace)):
        bars += _joined_cells(stage, phases, run_clock(trace).length_s)
    return bars


def is_drawn_by_batches(trace: RunTrace) -> bool:
    """Whether the run is short enough to show every batch."""
    return len(trace.spans) <= MOST_DRAWN * trace.num_stages


def close_look(trace: RunTrace) -> list[StageBar]:
    """Some batches around a switch of phase in the middle part of the run, or around its middle.

    None of a run that `whole_run` shows as closely already.
    """
    if is_drawn_by_batches(trace):
        return []
    count = len(trace.batches)
    reasons = [i for i, record in enumerate(trace.batches) if record.reason and i > 0]
    middle = min(reasons, key=lambda index: abs(index - count // 2), default=count // 2)
    size = BATCHES_LOOKED_AT * trace.num_stages
    first = max(0, min(middle - size // 2, count - size))
    chosen = {record.batch_id for record in trace.batches[first : first + size]}
    spans = [span for span in trace.spans if span.batch_id in chosen]
    if not spans:
        return []
    origin_s = run_clock(trace).origin_s
    low, high = min(s.start_s for s in spans), max(s.end_s for s in spans)
    return _every_span(trace, low - origin_s, high - origin_s)


def _every_span(trace: RunTrace, low_s: float, high_s: float) -> list[StageBar]:
    phases = {record.batch_id: record.phase for record in trace.batches}
    origin_s = run_clock(trace).origin_s
    bars = []
    for span in trace.spans:
        start_s, end_s = span.start_s - origin_s, span.end_s - origin_s
        if end_s > low_s and start_s < high_s and span.batch_id in phases:
            start_s, end_s = max(start_s, low_s), min(end_s, high_s)
            phase = phases[span.batch_id]
            bars.append(StageBar(span.stage, phase, start_s, end_s, batch=span.batch_id))
    return bars


def _cell_work(trace: RunTrace) -> list[dict[Phase, list[float]]]:
    """Seconds of work of each phase in each cell, stage by stage."""
    clock = run_clock(trace)
    count = max(1, min(MOST_CELLS_OF_A_STAGE, MOST_CELLS // trace.num_stages))
    width_s = clock.length_s / count
    work = [{phase: [0.0] * count for phase in Phase} for _ in range(trace.num_stages)]
    phases = {record.batch_id: record.phase for record in trace.batches}
    for span in trace.spans:
        if span.batch_id in phases:
            start_s, end_s = span.start_s - clock.origin_s, span.end_s - clock.origin_s
            cells = work[span.stage][phases[span.batch_id]]
            spread(cells, width_s, start_s, end_s, end_s - start_s)
    return work


def _joined_cells(stage: int, work: dict[Phase, list[float]], length_s: float) -> list[StageBar]:
    """Cells as bars; neighbours that look alike are one."""
    count = len(work[Phase.DECODE])
    width_s = length_s / count
    bars: list[StageBar] = []
    for index in range(count):
        times_s = {phase: cells[index] for phase, cells in work.items()}
        phase = max(times_s, key=lambda one: times_s[one])
        busy = round(LEVELS * min(1.0, sum(times_s.values()) / width_s)) / LEVELS
        start_s, end_s = index * width_s, (index + 1) * width_s
        if bars and bars[-1].end_s == start_s and (bars[-1].phase, bars[-1].busy) == (phase, busy):
            start_s = bars.pop().start_s
        if busy > 0:
            bars.append(StageBar(stage, phase, start_s, end_s, busy))
    return bars
