"""Runs in equal pieces of time: nothing is lost, nothing grows with the run."""

import itertools

import pytest

from handmade_runs import make_record
from tdpipe.reporting.run_bins import MOST_BINS, MOST_PHASES, phase_bands, run_bins, spread
from tdpipe.reporting.stage_bars import MOST_CELLS_OF_A_STAGE, close_look, whole_run
from tdpipe.tracing.run_trace import RunTrace


@pytest.mark.parametrize("num_batches", [1, 7, 40, 3000])
def test_all_tokens_are_somewhere(num_batches):
    trace = make_record(num_batches).trace
    bins = run_bins(trace)
    assert len(bins.output_rates) <= MOST_BINS
    assert sum(bins.output_rates) * bins.width_s == pytest.approx(
        sum(batch.num_sampled for batch in trace.batches)
    )
    assert sum(bins.prompt_rates) * bins.width_s == pytest.approx(trace.prefilled_tokens)
    assert max(bins.kv_shares) == min(49, num_batches - 1) / 50
    assert 0.7 * num_batches <= bins.waiting[0] <= num_batches and bins.resident[-1] == 6


def test_spreading():
    bins = [0.0] * 4
    spread(bins, 1.0, 0.5, 2.5, 8.0)
    assert bins == [2.0, 4.0, 2.0, 0.0]
    spread(bins, 1.0, 3.5, 9.0, 1.0)  # beyond the last bin by rounding
    assert bins[3] == pytest.approx(1.0)


def test_bands_are_the_phases_or_those_that_prevail():
    bands = phase_bands(make_record(40).trace)
    assert [str(band.phase) for band in bands] == ["prefill", "decode"] * 2
    assert bands[-1].end_s == pytest.approx(40.8)
    alternating = make_record(4000, phase_length=1).trace
    assert len(phase_bands(alternating)) <= MOST_BINS
    slowly = phase_bands(make_record(4000, phase_length=4000 // (MOST_PHASES + 50)).trace)
    assert 100 < len(slowly) <= MOST_BINS
    assert all(
        one.end_s == pytest.approx(after.start_s) for one, after in itertools.pairwise(slowly)
    )


def test_bars_of_a_short_run_are_its_batches():
    trace = make_record(40).trace
    bars = whole_run(trace)
    assert len(bars) == len(trace.spans) and bars[0].batch == 0
    assert sum(bar.end_s - bar.start_s for bar in bars) == pytest.approx(80 * 0.8)


def test_cells_of_a_long_run_add_up_to_its_work():
    trace = make_record(5000, phase_length=500).trace
    bars = whole_run(trace)
    assert len(bars) <= 2 * MOST_CELLS_OF_A_STAGE and all(bar.batch is None for bar in bars)
    work_s = sum(bar.busy * (bar.end_s - bar.start_s) for bar in bars)
    assert work_s == pytest.approx(10000 * 0.8, rel=0.05)
    many = whole_run(make_record(2000, num_stages=64).trace)
    assert len(many) <= 16000 + 64


def test_a_close_look_is_at_a_switch():
    bars = close_look(make_record(400, phase_length=100).trace)
    batches = {bar.batch for bar in bars}
    assert 20 <= len(batches) <= 24 and 200 in batches and 199 in batches
    assert close_look(make_record(40).trace) == []  # shown batch by batch anyway
    assert close_look(RunTrace(2, 10)) == []
