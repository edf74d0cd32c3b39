"""Records of runs that never were: a batch a second on each stage, in phases of given length."""

from tdpipe.core.batch_plan import Phase
from tdpipe.reporting.run_record import RunRecord
from tdpipe.reporting.run_summary import RunBound, RunTotals, summarize
from tdpipe.tracing.forecast_log import ForecastLog
from tdpipe.tracing.run_trace import BatchRecord, RunTrace, StageSpan

ORIGIN_S = 500.0


def make_record(
    num_batches: int = 40, num_stages: int = 2, phase_length: int = 10, pairs: int = 30
) -> RunRecord:
    """A run of prefill and decode in turn; each stage works 0.8 of its second on every batch."""
    batches, spans = [], []
    for index in range(num_batches):
        turn, step = divmod(index, phase_length)
        phase = Phase.DECODE if turn % 2 else Phase.PREFILL
        prefills, decodes = (0, 6) if turn % 2 else (2, 0)
        batches.append(
            BatchRecord(
                batch_id=index,
                phase=phase,
                prefill_tokens=100 * prefills,
                num_prefills=prefills,
                num_decodes=decodes,
                submitted_s=ORIGIN_S + index,
                kv_used_blocks=index % 50,
                num_waiting=max(0, num_batches - index),
                num_resident=6,
                reason=f"{phase}: reason <{turn}>" if step == 0 else "",
                num_sampled=prefills + decodes,
            )
        )
        for stage in range(num_stages):
            start_s = ORIGIN_S + index + stage
            spans.append(StageSpan(stage, index, start_s, start_s + 0.8))
    forecasts = ForecastLog()
    for index in range(pairs):
        forecasts.add(20 + index, 30 + 2 * index)
    prefilled = sum(batch.prefill_tokens for batch in batches)
    settings = {"model": "models/tiny & small", "scheduler": "td-pipe", "partition": None}
    trace = RunTrace(num_stages, 50, batches, spans, settings, forecasts, prefilled)
    totals = RunTotals(
        scheduler="td-pipe",
        partition=(4,) * num_stages,
        num_requests=pairs,
        num_failed=1,
        prompt_tokens=prefilled,
        output_tokens=sum(batch.num_sampled for batch in batches),
        num_preemptions=3,
        peak_kv_blocks=49,
        wall_s=float(num_batches + num_stages),
        bound=RunBound(0.5 * num_batches, "compute", False),
    )
    return RunRecord(trace, summarize(trace, totals))
