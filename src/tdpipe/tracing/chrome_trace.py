"""A run's record as a Chrome trace (chrome://tracing, Perfetto): a row a stage, one for the engine.

Times are microseconds from the first submission. Each batch is a complete event ("X"), KV use and
queue lengths are counters ("C"), switches of phase are instants ("i") with their reason.
"""

from tdpipe.tracing.run_trace import BatchRecord, RunTrace, StageSpan

Event = dict[str, object]


def chrome_trace(trace: RunTrace) -> dict[str, object]:
    """The trace as the JSON object format of the Trace Event specification."""
    origin_s = min((record.submitted_s for record in trace.batches), default=0.0)
    records = {record.batch_id: record for record in trace.batches}
    events = [_row_name(stage, f"stage {stage}") for stage in range(trace.num_stages)]
    events.append(_row_name(trace.num_stages, "engine"))
    for span in trace.spans:
        events.append(_span_event(span, records[span.batch_id], origin_s))
    for record in trace.batches:
        events.extend(_engine_events(record, trace, origin_s))
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": dict(trace.settings)}


def _row_name(row: int, name: str) -> Event:
    return {"ph": "M", "name": "thread_name", "pid": 0, "tid": row, "args": {"name": name}}


def _span_event(span: StageSpan, record: BatchRecord, origin_s: float) -> Event:
    collective = {"collective_us": _microseconds(span.collective_s)} if span.collective_s else {}
    return {
        "ph": "X",
        "name": f"{record.phase} {record.batch_id}",
        "cat": str(record.phase),
        "pid": 0,
        "tid": span.stage,
        "ts": _microseconds(span.start_s - origin_s),
        "dur": _microseconds(span.end_s - span.start_s),
        "args": {
            "batch": record.batch_id,
            "prefill_tokens": record.prefill_tokens,
            "prefills": record.num_prefills,
            "decodes": record.num_decodes,
            **collective,
        },
    }


def _engine_events(record: BatchRecord, trace: RunTrace, origin_s: float) -> list[Event]:
    ts = _microseconds(record.submitted_s - origin_s)
    counters = {
        "KV blocks": record.kv_used_blocks,
        "waiting": record.num_waiting,
        "resident": record.num_resident,
    }
    events: list[Event] = [
        {"ph": "C", "name": name, "pid": 0, "ts": ts, "args": {name: value}}
        for name, value in counters.items()
    ]
    if record.reason:
        row = trace.num_stages
        events.append({"ph": "i", "name": record.reason, "pid": 0, "tid": row, "ts": ts, "s": "p"})
    return events


def _microseconds(seconds: float) -> float:
    return round(seconds * 1e6, 1)
