"""td-pipe's replaceable parts: occupancy, no stealing, share of finished requests."""

from factories import add_resident, make_cost, make_limits, make_request, make_state
from tdpipe.policies.greedy_prefill import GreedyPrefill, OccupancyPrefill
from tdpipe.policies.kv_forecast import KVForecast
from tdpipe.policies.phase_switch import FinishedShareSwitch, IntensitySwitch
from tdpipe.policies.policy import PrefillChunk
from tdpipe.policies.work_stealing import keep


def test_occupancy_looks_at_now_only():
    # 10 prompts of 16 tokens that will grow to 20 blocks each, in 100 blocks.
    waiting = [make_request(i, 16, 304) for i in range(10)]
    state = make_state(make_limits(num_blocks=100), waiting)
    greedy = GreedyPrefill().next_batch(state, KVForecast(16))
    # At the last point that a request lives to, 256 steps on, it holds 17 blocks: 5 x 17 < 90.
    assert len(greedy) == 5
    assert len(OccupancyPrefill(occupancy=0.9).next_batch(state, KVForecast(16))) == 10
    assert len(OccupancyPrefill(occupancy=0.05).next_batch(state, KVForecast(16))) == 5


def test_finished_share():
    state = make_state(make_limits(num_blocks=100))
    for index in range(10):
        add_resident(state, make_request(index))
    switch = FinishedShareSwitch(share=0.2)
    switch.begin(state)
    state.num_finished = 1
    assert switch.reason(state, []) == ""
    state.num_finished = 2
    assert switch.reason(state, []) == "2 of 10 finished"


def test_intensity_gives_its_numbers():
    state = make_state(make_limits(num_blocks=100))
    add_resident(state, make_request(0))
    pending = [[PrefillChunk(1, 0, 192)] for _ in range(9)]
    assert "spatial" in IntensitySwitch(make_cost(2)).reason(state, pending)


def test_keeping_leaves_lanes_alone():
    shares = keep([1, 2], [], [5, 5], 0)
    assert (shares.lane, shares.withheld) == ((1, 2), ())
