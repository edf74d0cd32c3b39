"""What a run records of itself: every batch as decided, every span of a stage's work.

Real and simulated runs write the same record, each on its own clock (seconds, any origin).
"""

from dataclasses import dataclass, field

from tdpipe.core.batch_plan import BatchPlan
from tdpipe.core.engine_state import EngineState
from tdpipe.tracing.forecast_log import ForecastLog
from tdpipe.tracing.trace_columns import BatchColumns, SpanColumns
from tdpipe.tracing.trace_records import BatchRecord, StageSpan

__all__ = ["BatchRecord", "RunTrace", "StageSpan"]


@dataclass(slots=True)
class RunTrace:
    """One run's batches in order of submission and spans in order of arrival.

    `prefilled_tokens` is the sum over the batches; `forecasts` is what finished requests tell of
    the length predictor.
    """

    num_stages: int
    num_blocks: int
    batches: BatchColumns | list[BatchRecord] = field(default_factory=BatchColumns)
    spans: SpanColumns | list[StageSpan] = field(default_factory=SpanColumns)
    settings: dict[str, object] = field(default_factory=dict)
    forecasts: ForecastLog = field(default_factory=ForecastLog)
    prefilled_tokens: int = 0

    def submitted(self, plan: BatchPlan, now_s: float, state: EngineState) -> None:
        """Record a plan at the moment it is handed to the executor."""
        prefills = plan.slices[: plan.num_prefills]
        prefill_tokens = sum(piece.num_tokens for piece in prefills)
        num_decodes = len(plan.slices) - plan.num_prefills
        self.prefilled_tokens += prefill_tokens
        self.batches.append(
            BatchRecord(
                batch_id=plan.batch_id,
                phase=plan.phase,
                prefill_tokens=prefill_tokens,
                num_prefills=plan.num_prefills,
                num_decodes=num_decodes,
                submitted_s=now_s,
                kv_used_blocks=state.pool.num_used,
                num_waiting=len(state.waiting),
                num_resident=len(state.resident),
                reason=plan.reason,
                num_sampled=num_decodes + sum(piece.samples for piece in prefills),
            )
        )
