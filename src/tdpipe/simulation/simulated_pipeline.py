"""A pipeline on a virtual clock: the second Executor, without tensors or processes.

A FIFO pipeline needs no event queue. A stage starts a batch at max(stage free, batch arrived):
    start[s] = max(free[s], end[s-1] + transfer),  end[s] = free[s] = start[s] + time[s]
Transfers are asynchronous: the sending stage goes on at once. Tokens are made up: END_TOKEN where a
request's true length is reached, else PLACEHOLDER_TOKEN.
"""

from collections import deque
from collections.abc import Mapping

from tdpipe.core.batch_plan import BatchPlan, BatchResult, Sample
from tdpipe.cost.cost_model import CostModel, plan_load
from tdpipe.tracing.trace_columns import SpanColumns
from tdpipe.tracing.trace_records import StageSpan

PLACEHOLDER_TOKEN = 0
END_TOKEN = 1


class SimulatedPipeline:
    """Executor over `cost.num_stages` simulated stages.

    Args:
        cost: times of stages and links, in seconds; tensor parallelism within a stage is part
            of its stage times.
        engine_overhead_s: engine time a batch costs. The engine handles one batch at a time, and
            a batch starts on the first stage only after it.
        keep_spans: record every batch on every stage in `spans`.
        final_tokens: prompt and output tokens at which a request ends, by request_id; requests
            that are not in it must end by max_tokens.
        prompt_forecasts: output tokens that the last stage forecasts with the first token, by
            (request_id, prompt tokens).
    """

    def __init__(
        self,
        cost: CostModel,
        engine_overhead_s: float = 0.0,
        keep_spans: bool = True,
        final_tokens: Mapping[int, int] | None = None,
        prompt_forecasts: Mapping[tuple[int, int], int] | None = None,
    ) -> None:
        self.cost = cost
        self.prompt_forecasts = prompt_forecasts or {}
        self.final_tokens = final_tokens or {}
        self.depth = cost.num_stages + 1
        self.engine_overhead_s = engine_overhead_s
        self.keep_spans = keep_spans
        self.spans = SpanColumns()
        self.busy_s = [0.0] * cost.num_stages
        self.num_batches = 0
        self.num_sampled = 0
        self.num_prefilled = 0
        self._clock_s = 0.0
        self._engine_free_s = 0.0
        self._stage_free_s = [0.0] * cost.num_stages
        self._running: deque[tuple[float, BatchPlan]] = deque()  # (end on the last stage, plan)

    def has_room(self) -> bool:
        return len(self._running) < self.depth

    def now_s(self) -> float:
        return self._clock_s

    def submit(self, plan: BatchPlan) -> None:
        assert self.has_room(), len(self._running)
        load = plan_load(plan)
        transfer_s = self.cost.transfer_time_s(load.num_tokens)
        arrived_s = max(self._clock_s, self._engine_free_s) + self.engine_overhead_s
        self._engine_free_s = arrived_s
        for stage in range(self.cost.num_stages):
            start_s = max(self._stage_free_s[stage], arrived_s)
            time_s = self.cost.stage_time_s(stage, load)
            end_s = start_s + time_s
            self._stage_free_s[stage] = end_s
            self.busy_s[stage] += time_s
            if self.keep_spans:
                self.spans.append(StageSpan(stage, plan.batch_id, start_s, end_s))
            arrived_s = end_s + transfer_s
        self._running.append((end_s, plan))
        self.num_batches += 1
        self.num_prefilled += load.prefill_tokens

    def wait(self, until_s: float | None) -> list[BatchResult]:
        """Advance the clock to the next result, or to until_s if that comes first."""
        if not self._running or (until_s is not None and until_s < self._running[0][0]):
            assert until_s is not None, "nothing to wait for"
            self._clock_s = max(self._clock_s, until_s)
            return []
        end_s, plan = self._running.popleft()
        self._clock_s = end_s
        final = self.final_tokens
        samples = tuple(
            [
                # The sampled token is the one after the slice's context.
                Sample(
                    piece.request_id,
                    END_TOKEN
                    if piece.context_tokens + 1 == final.get(piece.request_id)
                    else PLACEHOLDER_TOKEN,
                )
                for piece in plan.slices
                if piece.samples
            ]
        )
        if self.prompt_forecasts and plan.num_prefills:
            samples = self._with_forecasts(plan, samples)
        self.num_sampled += len(samples)
        return [BatchResult(plan.batch_id, samples)]

    def _with_forecasts(self, plan: BatchPlan, samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
        sampled = (piece for piece in plan.slices if piece.samples)
        return tuple(
            sample._replace(
                forecast_tokens=self.prompt_forecasts.get((piece.request_id, piece.context_tokens))
            )
            for sample, piece in zip(samples, sampled, strict=True)
        )

    def close(self) -> None:
        self._running.clear()
