"""Both intensities, by hand-computed cases."""

import pytest

from tdpipe.cost.cost_model import decode_load, prefill_load
from tdpipe.policies.intensity import Intensities, compare, spatial_intensity, temporal_intensity


class FlatCost:
    """A stage takes 10 ms + 1 ms a prefill token, or 10 ms + 0.1 ms a decoding sequence."""

    num_stages = 4

    def stage_time_s(self, stage, load):
        return 0.010 + 0.001 * load.prefill_tokens + 0.0001 * load.decode_sequences

    def transfer_time_s(self, num_tokens):
        return 0.0


def test_spatial_is_the_share_of_peak_throughput():
    peak = 256 / 0.0356
    assert spatial_intensity(FlatCost(), 100, 50) == pytest.approx((100 / 0.020) / peak)
    assert spatial_intensity(FlatCost(), 256, 50) == 1.0
    assert spatial_intensity(FlatCost(), 1000, 50) == 1.0
    assert spatial_intensity(FlatCost(), 0, 50) == 0.0


def test_temporal_is_one_less_the_bubble_share():
    decode_s, prefill_s = 0.020, 0.110
    bubble_s = 3 * (prefill_s - decode_s)
    total_s = 2 * prefill_s + 4 * decode_s + bubble_s
    loads = [prefill_load(0, 100)] * 2
    got = temporal_intensity(FlatCost(), loads, decode_load(100, 0))
    assert got == pytest.approx(1 - bubble_s / total_s)


def test_more_pending_prefills_make_switching_more_attractive():
    few = compare(FlatCost(), [prefill_load(0, 100)], 20, 50)
    many = compare(FlatCost(), [prefill_load(0, 100)] * 50, 20, 50)
    assert many.temporal > few.temporal and many.spatial == few.spatial
    assert many.says_switch


def test_bubble_is_never_negative():
    """A decode step longer than the prefills is a bubble too, not a gain."""
    got = temporal_intensity(FlatCost(), [prefill_load(0, 1)], decode_load(5000, 0))
    assert 0 < got < 1


def test_equal_intensities_do_not_switch():
    assert not Intensities(0.5, 0.5).says_switch
    assert Intensities(0.4, 0.5).says_switch
