"""Which of the measured links a layout uses."""

from dataclasses import replace

import pytest

from tdpipe.cost.collectives import all_reduce_time_s, transfer_time_s
from tdpipe.cost.cost_model import decode_load
from tdpipe.cost.hardware_catalogue import find_device
from tdpipe.cost.measured_links import MeasuredLinks, PairTimes
from tdpipe.cost.model_catalogue import find_model
from tdpipe.cost.placement import place

TWO = MeasuredLinks(
    "nccl", 2, (PairTimes(0, 1, 20e9, 1e-5), PairTimes(1, 0, 10e9, 3e-5)), 5e-5, 8e9
)


def two_boxes(inside=20e9, between=1e8):
    """Ranks 0 and 1 in one box, 2 and 3 in another, far away."""
    pairs = [
        PairTimes(a, b, *((inside, 1e-5) if a // 2 == b // 2 else (between, 1e-3)))
        for a in range(4)
        for b in range(4)
        if a != b
    ]
    return MeasuredLinks("nccl", 4, tuple(pairs), 1.2e-3, 0.8 * between)


def test_two_ranks():
    link = TWO.link(1, 2)
    assert all_reduce_time_s(link, 2, 8e9) == pytest.approx(2 * 5e-5 + 1)
    # From the first to the second stage only; the way back is slower.
    assert transfer_time_s(TWO.link(2, 1), 20e9) == pytest.approx(1 + 1e-5)


def test_more_ranks_than_were_measured():
    """The slowest pair; four ranks take six steps, each with the latency of a sum's step."""
    link = TWO.link(1, 4)
    assert all_reduce_time_s(link, 4, 8e9) == pytest.approx(6 * 5e-5 + 1.5)
    assert transfer_time_s(TWO.link(4, 1), 10e9) == pytest.approx(1 + 3e-5)


def test_ranks_of_a_stage_sum_inside_their_box():
    links = two_boxes()
    inside, over_all = links.link(2, 2), links.link(1, 4)
    assert (over_all.all_reduce_bytes_per_s, over_all.all_reduce_latency_s) == (0.8e8, 1.2e-3)
    # As far from its slowest hop as the sum over all is from its own.
    assert inside.all_reduce_bytes_per_s == pytest.approx(0.8 * 20e9)
    assert inside.all_reduce_latency_s == pytest.approx(1.2e-5)
    assert inside.bytes_per_s == 1e8 and inside.latency_s == 1e-3
    # Stages of one rank hand on once over the slow link, which holds up all.
    assert links.link(4, 1).bytes_per_s == 1e8
    assert links.link(2, 1).bytes_per_s == 20e9  # both in the first box


def test_times_of_a_layout_are_over_its_own_links():
    """Sums inside the boxes cost little, sums across them most of the time."""
    model, device = find_model("llama-2-13b"), find_device("L20")
    load = decode_load(64, 64 * 300)

    def step_s(num_stages, ranks, links):
        cost = place(model, replace(device, measured=links), num_stages, ranks).cost()
        return num_stages * cost.stage_time_s(0, load)

    inside, across = step_s(2, 2, two_boxes()), step_s(1, 4, two_boxes())
    assert across > 5 * inside
    assert step_s(2, 2, two_boxes(inside=1e8)) > 5 * inside
