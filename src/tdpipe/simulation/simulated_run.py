"""One simulated run: the real control plane and scheduler over the simulated pipeline."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tdpipe.control.arrivals import ScheduledArrivals, TimedRequest
from tdpipe.control.control_plane import ControlPlane, OutputEvent
from tdpipe.control.engine_loop import drive
from tdpipe.core.limits import Limits
from tdpipe.cost.cost_model import CostModel
from tdpipe.policies.policy import Policy
from tdpipe.prediction.length_predictor import LengthPredictor
from tdpipe.simulation.simulated_pipeline import SimulatedPipeline
from tdpipe.tracing.run_trace import RunTrace


@dataclass(frozen=True, slots=True)
class TokenTimes:
    """When a request's first and last output token came back, in seconds of the virtual clock."""

    first_s: float
    last_s: float


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """What a simulated run came to; times in seconds of the virtual clock.

    `recomputed_tokens` were prefilled again after a preemption; `busy_shares` are of the whole
    run, one for each stage; `token_times` are those of each request, in the order given.
    """

    makespan_s: float
    prompt_tokens: int
    output_tokens: int
    prefilled_tokens: int
    num_batches: int
    num_preemptions: int
    peak_kv_share: float
    busy_shares: tuple[float, ...]
    token_times: tuple[TokenTimes, ...]
    trace: RunTrace | None

    @property
    def tokens_per_s(self) -> float:
        """Prompt and output tokens per second, as the paper counts throughput."""
        return (self.prompt_tokens + self.output_tokens) / self.makespan_s

    @property
    def recomputed_share(self) -> float:
        """Recomputed tokens as a share of all tokens computed."""
        recomputed = self.prefilled_tokens - self.prompt_tokens
        return recomputed / (self.prefilled_tokens + self.output_tokens)


def simulate(
    requests: Sequence[TimedRequest],
    policy: Policy,
    cost: CostModel,
    limits: Limits,
    predictor: LengthPredictor,
    engine_overhead_s: float = 0.0,
    keep_trace: bool = False,
    output_tokens: Sequence[int] | None = None,
    prompt_forecasts: Sequence[int] | None = None,
) -> SimulatedRun:
    """Run the requests to their end.

    Args:
        output_tokens: true output length of each request, in their order, which nobody but the
            pipeline knows; None if the requests end by their max_tokens.
        prompt_forecasts: output tokens that the last stage forecasts for each request when it has
            read the prompt; None if it does not.

    Raises:
        RequestRejected: a request is beyond the limits.
    """
    pipeline = SimulatedPipeline(
        cost,
        engine_overhead_s,
        keep_trace,
        _final_tokens(requests, output_tokens),
        _prompt_forecasts(requests, prompt_forecasts),
    )
    control = ControlPlane(limits, policy, predictor)
    trace = RunTrace(limits.num_stages, limits.num_blocks) if keep_trace else None
    first_s: dict[int, float] = {}
    last_s: dict[int, float] = {}
    for events in drive(control, pipeline, ScheduledArrivals(requests), trace):
        _note_times(events, pipeline.now_s(), first_s, last_s)
    control.check()
    if trace is not None:
        trace.spans = pipeline.spans
        trace.forecasts = control.forecasts.log
    end_s = pipeline.now_s()
    return SimulatedRun(
        makespan_s=end_s,
        prompt_tokens=sum(len(timed.request.prompt_token_ids) for timed in requests),
        output_tokens=pipeline.num_sampled,
        prefilled_tokens=pipeline.num_prefilled,
        num_batches=pipeline.num_batches,
        num_preemptions=control.state.num_preemptions,
        peak_kv_share=control.state.pool.peak_used / limits.num_blocks,
        busy_shares=tuple(busy_s / end_s for busy_s in pipeline.busy_s),
        token_times=tuple(
            TokenTimes(first_s[timed.request.request_id], last_s[timed.request.request_id])
            for timed in requests
        ),
        trace=trace,
    )


def _note_times(
    events: Iterable[OutputEvent], now_s: float, first_s: dict[int, float], last_s: dict[int, float]
) -> None:
    """Note, by request_id, a batch's tokens, which all came back at now_s."""
    for event in events:
        first_s.setdefault(event.request_id, now_s)
        last_s[event.request_id] = now_s


def _final_tokens(
    requests: Sequence[TimedRequest], output_tokens: Sequence[int] | None
) -> dict[int, int]:
    if output_tokens is None:
        return {}
    return {
        timed.request.request_id: len(timed.request.prompt_token_ids) + num_output
        for timed, num_output in zip(requests, output_tokens, strict=True)
    }


def _prompt_forecasts(
    requests: Sequence[TimedRequest], forecasts: Sequence[int] | None
) -> dict[tuple[int, int], int]:
    if forecasts is None:
        return {}
    return {
        (timed.request.request_id, len(timed.request.prompt_token_ids)): tokens
        for timed, tokens in zip(requests, forecasts, strict=True)
    }
