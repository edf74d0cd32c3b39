"""Busy shares, phases and the summary, from a trace written by hand."""

from dataclasses import replace

import pytest

from tdpipe.core.batch_plan import Phase
from tdpipe.reporting.bubbles import busy_shares, decode_window_busy_shares, phase_intervals
from tdpipe.reporting.run_summary import RunBound, RunTotals, summarize
from tdpipe.tracing.run_trace import BatchRecord, RunTrace, StageSpan


def record(batch_id, phase, resident=2, reason=""):
    prefill = 10 if phase is Phase.PREFILL else 0
    return BatchRecord(batch_id, phase, prefill, 1, 1, 0.5 * batch_id, 3, 0, resident, reason)


@pytest.fixture
def trace():
    """Prefill for 4 s, then three decode batches; stage 1 works half of the time."""
    phases = [Phase.PREFILL, Phase.DECODE, Phase.DECODE, Phase.DECODE]
    batches = [record(i, phase, reason="go" if i == 1 else "") for i, phase in enumerate(phases)]
    spans = []
    for i in range(4):
        spans.append(StageSpan(0, i, 2.0 * i, 2.0 * i + 2))
        spans.append(StageSpan(1, i, 2.0 * i + 2, 2.0 * i + 3))
    return RunTrace(2, 10, batches, spans, {"scheduler": "td-pipe"})


def test_busy_shares(trace):
    assert busy_shares(trace) == pytest.approx([8 / 9, 4 / 9])
    assert busy_shares(trace, (1.0, 4.0)) == pytest.approx([1.0, 1 / 3])
    assert busy_shares(RunTrace(2, 10)) == [0.0, 0.0]


def test_phases_add_up_to_the_run(trace):
    intervals = phase_intervals(trace)
    assert [(i.phase, i.duration_s) for i in intervals] == [(Phase.PREFILL, 3), (Phase.DECODE, 6)]


def test_decode_window(trace):
    shares, window = decode_window_busy_shares(trace, min_requests=2)
    assert window == (5.0, 8.0) and shares == pytest.approx([1.0, 1 / 3])
    assert decode_window_busy_shares(trace, min_requests=3)[0] == [0.0, 0.0]


TOTALS = RunTotals("td-pipe", (16, 14), 3, 1, 8, 20, 1, 5, 10.0)


def test_summary(trace):
    summary = summarize(trace, TOTALS)
    assert summary.num_switches == 1 and summary.recomputed_tokens == 2
    assert summary.peak_kv_share == 0.5 and summary.output_tokens_per_s == 2.0
    assert (summary.prefill_s, summary.decode_s, summary.mixed_s) == (3, 6, 0)
    text = str(summary)
    assert "16,14 layers" in text and "1 phase switches, 1 preemptions" in text
    assert summary.bound_share is None and "bound" not in text


def test_what_came_from_the_cache(trace):
    """10 tokens were prefilled; of 2 x 8 requested, 7 were not: one was prefilled twice."""
    assert "prefixes" not in str(summarize(trace, TOTALS))
    summary = summarize(trace, replace(TOTALS, requested_tokens=16, cached_tokens=7))
    assert (summary.recomputed_tokens, summary.cached_share) == (1, 7 / 16)
    assert "prefixes     43.8% of the prompt tokens came from the cache" in str(summary)


def test_share_of_the_bound(trace):
    measured = summarize(trace, replace(TOTALS, bound=RunBound(7.125, "compute", False)))
    assert measured.bound_share == 0.7125
    line = "bound        71.2% of what the stages allow: at least 7.12 s (compute)"
    assert str(measured).splitlines()[-1] == line
    estimated = summarize(trace, replace(TOTALS, bound=RunBound(7.125, "chain", True)))
    assert str(estimated).endswith("7.12 s (chain; estimated, `tdpipe profile` measures)")
    assert summarize(trace, replace(TOTALS, bound=measured.bound, wall_s=0.0)).bound_share is None
