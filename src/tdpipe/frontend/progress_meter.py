"""What a moment of a run looks like, at a price that does not grow with the run.

Five moments a second are shown, while a hundred thousand requests may wait: everything comes from
running sums, from the batches in flight and from the ends of the lists of batches and spans.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from tdpipe.control.control_plane import ControlPlane
from tdpipe.core.engine_state import EngineState
from tdpipe.cost.cost_model import BatchLoad, CostModel, decode_load, slowest_stage_time_s
from tdpipe.outputs import BatchInFlight, Progress
from tdpipe.tracing.run_trace import BatchRecord, RunTrace, StageSpan

Item = TypeVar("Item")
# Output tokens a second are those of so many last seconds; what is left is judged by more of them.
RECENT_S = 10.0
PACE_S = 60.0
# Spans of each stage that tell how busy it is now.
RECENT_SPANS = 24
# A batch that stands for prefill, and one for decode, when their tokens' prices are compared.
TYPICAL_PREFILL = BatchLoad(prefill_tokens=512, sampled=2)
TYPICAL_DECODES = 32
TYPICAL_CONTEXT = 256


@dataclass(frozen=True, slots=True)
class JobCounts:
    """What the front end counts itself; see Progress for their meaning."""

    num_finished: int
    num_failed: int
    num_requests: int
    num_prompt_tokens: int
    num_output_tokens: int
    entered_prompt_tokens: int
    ended: tuple[tuple[str, int], ...]
    num_restarts: int = 0


class RecentRate:
    """Growth per second of a number, over the last `window_s` seconds."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._points: deque[tuple[float, float]] = deque([(0.0, 0.0)])

    def take(self, now_s: float, value: float) -> float:
        """Note the value; returns the rate, 0 while no time has passed."""
        self._points.append((now_s, value))
        while len(self._points) > 2 and self._points[1][0] <= now_s - self._window_s:
            self._points.popleft()
        then_s, before = self._points[0]
        return (value - before) / (now_s - then_s) if now_s > then_s else 0.0


class ProgressMeter:
    """Makes the moments of one run.

    Args:
        cost: tells how dear a prefilled token is beside a generated one.
    """

    def __init__(self, cost: CostModel) -> None:
        prefill_s = slowest_stage_time_s(cost, TYPICAL_PREFILL) / TYPICAL_PREFILL.prefill_tokens
        decode = decode_load(TYPICAL_DECODES, TYPICAL_DECODES * TYPICAL_CONTEXT)
        self._prefill_price = prefill_s / (slowest_stage_time_s(cost, decode) / TYPICAL_DECODES)
        self._tokens = RecentRate(RECENT_S)
        self._work = RecentRate(PACE_S)

    def moment(
        self,
        control: ControlPlane,
        trace: RunTrace,
        spans: Sequence[StageSpan],
        jobs: JobCounts,
        elapsed_s: float,
    ) -> Progress:
        """The run as it is now."""
        state, pool = control.state, control.state.pool
        in_flight = _in_flight(trace, spans, state)
        return Progress(
            num_finished=jobs.num_finished,
            num_requests=jobs.num_requests,
            num_prompt_tokens=jobs.num_prompt_tokens,
            num_output_tokens=jobs.num_output_tokens,
            phase=str(trace.batches[-1].phase) if trace.batches else "",
            kv_used_share=pool.num_used / pool.num_blocks,
            elapsed_s=elapsed_s,
            num_failed=jobs.num_failed,
            num_restarts=jobs.num_restarts,
            num_preemptions=state.num_preemptions,
            num_waiting=len(state.waiting),
            num_running=len(state.resident),
            prefilled_tokens=trace.prefilled_tokens,
            recomputed_tokens=state.num_recomputed_tokens,
            entered_prompt_tokens=jobs.entered_prompt_tokens,
            ended=jobs.ended,
            recent_tokens_per_s=self._tokens.take(elapsed_s, jobs.num_output_tokens),
            left_s=self._left_s(control, trace, jobs, elapsed_s),
            in_flight=in_flight,
            lane_sizes=_lane_sizes(trace),
            stage_busy_shares=_busy_now(trace.num_stages, spans),
        )

    def _left_s(
        self, control: ControlPlane, trace: RunTrace, jobs: JobCounts, elapsed_s: float
    ) -> float | None:
        """Work left at the pace of late, prompt tokens counted at their price in output tokens."""
        done = self._prefill_price * trace.prefilled_tokens + jobs.num_output_tokens
        pace = self._work.take(elapsed_s, done)
        if pace <= 0 or not jobs.num_output_tokens:
            return None
        state, forecasts = control.state, control.forecasts
        prompt_tokens = state.num_tokens_to_prefill + sum(
            request.num_unscheduled for request in state.prefilling.values()
        )
        generated = jobs.num_output_tokens - forecasts.ended_tokens
        unfinished = len(state.waiting) + len(state.resident)
        output_tokens = max(unfinished, forecasts.expected_tokens - generated)
        return (self._prefill_price * prompt_tokens + output_tokens) / pace


def _in_flight(
    trace: RunTrace, spans: Sequence[StageSpan], state: EngineState
) -> tuple[BatchInFlight, ...]:
    """The batches on their way, each at the stage after the last one that reported it."""
    last = trace.num_stages - 1
    passed: dict[int, int] = {}
    for span in _last(spans, 2 * trace.num_stages * (len(state.in_flight) + 1)):
        passed[span.batch_id] = max(passed.get(span.batch_id, 0), span.stage + 1)
    return tuple(
        BatchInFlight(
            record.batch_id,
            str(record.phase),
            min(passed.get(record.batch_id, 0), last),
            record.prefill_tokens,
            record.num_decodes,
        )
        for record in _last(trace.batches, len(state.in_flight))
        if record.batch_id in state.in_flight
    )


def _lane_sizes(trace: RunTrace) -> tuple[int, ...]:
    """Sizes of the latest decode batches, one for each stage, oldest first."""
    latest: Sequence[BatchRecord] = _last(trace.batches, 4 * trace.num_stages)
    sizes = (record.num_decodes for record in reversed(latest) if record.num_decodes)
    return tuple(reversed(list(islice(sizes, trace.num_stages))))


def _busy_now(num_stages: int, spans: Sequence[StageSpan]) -> tuple[float, ...]:
    """Share of the last spans' time that each stage worked."""
    latest = _last(spans, RECENT_SPANS * num_stages)
    if not latest:
        return (0.0,) * num_stages
    begin_s, end_s = min(s.start_s for s in latest), max(s.end_s for s in latest)
    busy_s = [0.0] * num_stages
    for span in latest:
        busy_s[span.stage] += span.end_s - span.start_s
    return tuple(min(1.0, time_s / max(end_s - begin_s, 1e-9)) for time_s in busy_s)


def _last(items: Sequence[Item], count: int) -> Sequence[Item]:
    return items[-count:] if count else ()
