"""The Chrome trace of a record written by hand."""

from tdpipe.core.batch_plan import Phase
from tdpipe.tracing.chrome_trace import chrome_trace
from tdpipe.tracing.run_trace import BatchRecord, RunTrace, StageSpan


def make_trace():
    """Two batches on two stages; the second one switches the phase."""
    batches = [
        BatchRecord(0, Phase.PREFILL, 10, 1, 0, 5.0, 3, 4, 2, "", 1),
        BatchRecord(1, Phase.DECODE, 0, 0, 2, 5.5, 3, 4, 2, "KV forecast is full", 2),
    ]
    spans = [
        StageSpan(stage, i, 5.0 + i + stage, 5.5 + i + stage) for i in (0, 1) for stage in (0, 1)
    ]
    return RunTrace(2, 10, batches, spans, {"scheduler": "td-pipe"})


def test_every_batch_on_every_stage():
    events = chrome_trace(make_trace())["traceEvents"]
    complete = [event for event in events if event["ph"] == "X"]
    places = sorted((event["tid"], event["args"]["batch"]) for event in complete)
    assert places == [(stage, batch) for stage in (0, 1) for batch in (0, 1)]
    assert [(event["ts"], event["dur"]) for event in complete][:2] == [(0.0, 5e5), (1e6, 5e5)]


def test_switches_and_counters():
    events = chrome_trace(make_trace())["traceEvents"]
    [switch] = [event for event in events if event["ph"] == "i"]
    assert (switch["name"], switch["ts"]) == ("KV forecast is full", 5e5)
    blocks = [event["args"] for event in events if event.get("name") == "KV blocks"]
    assert blocks == [{"KV blocks": 3}, {"KV blocks": 3}]
