"""TD-Pipe's three decisions on numbers worked out by hand, and what its reference gets wrong."""

from dataclasses import dataclass

import pytest

from factories import add_resident, make_control, make_limits, make_new, make_request, make_state
from tdpipe.control.arrivals import ScheduledArrivals
from tdpipe.control.engine_loop import drive
from tdpipe.control.plan_recorder import PlanRecorder
from tdpipe.cost.cost_model import prefill_load
from tdpipe.policies.greedy_prefill import GreedyPrefill, OccupancyPrefill
from tdpipe.policies.intensity import compare
from tdpipe.policies.kv_forecast import KVForecast
from tdpipe.policies.phase_switch import IntensitySwitch
from tdpipe.policies.scheduler_registry import make_scheduler
from tdpipe.policies.work_stealing import steal
from tdpipe.simulation.simulated_pipeline import SimulatedPipeline


@dataclass
class LinearCost:
    """A stage takes 100 s a batch + 1 s a token + context_s for each token read by a decode."""

    num_stages: int = 4
    context_s: float = 0.0

    def stage_time_s(self, stage, load):
        return 100.0 + load.num_tokens + self.context_s * load.decode_context_tokens

    def transfer_time_s(self, num_tokens):
        return 0.0


# ---- greedy prefill; a block holds 16 tokens


def chosen(state, rule):
    """Ids in the next prefill batch."""
    forecast = KVForecast(16, state.resident.values())
    return [request.request_id for request in rule.next_batch(state, forecast)]


def state_with(num_blocks, residents, waiting):
    """Both as (prompt, predicted) tokens, ids counting on; residents have their first token."""
    requests = [make_request(i, *sizes) for i, sizes in enumerate([*residents, *waiting])]
    state = make_state(make_limits(num_blocks=num_blocks), requests[len(residents) :])
    for request in requests[: len(residents)]:
        add_resident(state, request)
    return state


def test_memory_of_requests_that_end_is_given_out_again():
    # 8 residents hold 5 blocks each, at the next step 81 tokens in 6, and then they end. Each of
    # the three that wait holds 3 blocks at the next step and 34 (544 tokens) after 512 steps.
    #   next step   48 + 3 = 51, 48 + 6 = 54, ...   in 512 steps   34, 68, 102
    # Below 90 for two of them; all sizes at their end together would be 48 + 34 + 34 = 116.
    state = state_with(100, [(79, 2)] * 8, [(32, 600)] * 3)
    assert chosen(state, GreedyPrefill()) == [8, 9]
    # By what is in use now, 40 blocks and 2 for each prompt: 42, 44, 46.
    assert chosen(state, OccupancyPrefill(occupancy=0.42)) == [8]
    assert chosen(state, OccupancyPrefill(occupancy=0.9)) == [8, 9, 10]


def test_the_forecast_stops_where_it_reaches_the_threshold():
    # 20 blocks, threshold 18. Blocks in so many steps:
    #                      1   5   8  16  32  64 128
    # 0, 33 tokens, 8 left 3   3   3   0   0   0   0
    # 1, 16 tokens, 64     2   2   2   2   3   5   0
    # 2, 16 tokens, 128    2   2   2   2   3   5   9
    # 3, 16 tokens, 128    2   2   2   2   3   5   9   all: 9 at 1, 15 at 64, 18 at 128
    residents, first = [(32, 9)], [(16, 64), (16, 128)]
    state = state_with(20, residents, [*first, (16, 128)])
    assert chosen(state, GreedyPrefill()) == [1, 2]
    assert chosen(state, OccupancyPrefill()) == [1, 2, 3]  # 2 + 3 blocks now
    # One token less, and it has ended by the last point: 15 remain.
    assert chosen(state_with(20, residents, [*first, (16, 127)]), GreedyPrefill()) == [1, 2, 3]


def test_the_next_step_is_a_future_point():
    # 8 residents fill 2 blocks each; at the next step they will hold 3 each, 24 of 20.
    state = state_with(20, [(32, 2)] * 8, [(8, 4)])
    assert chosen(state, GreedyPrefill()) == []
    assert chosen(state, OccupancyPrefill()) == [8]  # 16 + 1 <= 18


def test_only_free_blocks_stop_a_prompt():
    # One resident holds 8 of 10 blocks, 9 at the next step. The threshold is 15 here: below 10
    # the forecast always stops first, as residents hold at the next step what they hold now.
    rule = GreedyPrefill(threshold=1.5)
    assert chosen(state_with(10, [(127, 1)], [(48, 4)]), rule) == []  # 3 > 2 free; 9 + 4 < 15
    assert chosen(state_with(10, [(127, 1)], [(32, 4)]), rule) == [1]  # 2 free; 9 + 3 < 15


def test_short_predictions_reserve_and_the_what_if_stops_where_prefill_does():
    # Prompts of one block, two at the next step. The reference looks 5 steps ahead at least, where
    # none of them counts, and fills its what-if to 10 blocks: ours both stop at 8 < 9.
    state = state_with(10, [], [(16, 3)] * 10)
    assert chosen(state, GreedyPrefill()) == [0, 1, 2, 3]
    batches = GreedyPrefill().would_admit(state)
    assert [[request.request_id for request in batch] for batch in batches] == [[0, 1, 2, 3]]


# ---- work stealing


def test_the_example_of_the_paper_in_a_run():
    """512 requests, 4 lanes of 128; after a round 48 of lane 0 end and 8 of each other lane."""
    ends_first = [lane * 128 + i for lane in range(4) for i in range(8 if lane else 48)]
    requests = [make_new(i, 8, 2 if i in ends_first else 10) for i in range(512)]
    recorder = PlanRecorder()
    control = make_control(
        make_scheduler("td-pipe", LinearCost()), make_limits(4, 4000), recorder=recorder
    )
    list(drive(control, SimulatedPipeline(LinearCost()), ScheduledArrivals.all_at_once(requests)))
    decodes = [line.split(" d:")[1].split(" #")[0] for line in recorder.lines if " d:" in line]
    sizes = [len(line.split()) for line in decodes]
    assert sizes[:4] == [128, 128, 128, 128]
    assert sizes[4:8] == [
        80,  # (512 - 48) / 4 = 116
        114,  # (80 + 3 x 128 - 8) / 4 = 114 of 120, 6 withheld
        112,  # (80 + 114 + 2 x 128 + 6 - 8) / 4 = 112 of 120, 14 withheld
        110,  # (80 + 114 + 112 + 128 + 14 - 8) / 4 = 110 of 120, 24 withheld
    ]
    # 440 requests are left, 110 a lane.
    assert sizes[8:12] == [
        104,  # 80 and all 24 withheld
        110,  # 114, 4 withheld
        110,  # 112, 6 withheld
        110,
    ]
    assert sizes[12:16] == [110, 110, 110, 110]  # 104 and the 6


def test_stealing_at_its_edges():
    # One request in 4 lanes: an average of 1/4 is rounded up, or nothing would ever run.
    assert steal([7], [], [1, 0, 0, 0], 0).lane == (7,)
    # A lane whose requests have all ended takes what is withheld: (0 + 3 + 2) / 2 = 2.5, so 3.
    assert steal([], [5, 6], [4, 3], 0).lane == (5, 6)
    # Lanes that are still away count as when they left: (3 + 3) / 2, nothing moves.
    shares = steal([1, 2, 3], [], [3, 3], 0)
    assert (shares.lane, shares.withheld) == ((1, 2, 3), ())


# ---- intensity comparison; 4 stages


def prompts(number, tokens):
    return [prefill_load(0, tokens)] * number


def test_small_decode_batches_switch():
    got = compare(LinearCost(), prompts(3, 200), 64, 50)
    # achieved 64 / 164, peak 256 / 356
    assert got.spatial == pytest.approx(64 / 164 * 356 / 256) == pytest.approx(0.543, abs=0.001)
    # bubble 3 x (300 - 164) = 408, total 3 x 300 + 4 x 164 + 408 = 1964. The reference subtracts
    # the time of the whole model from that of a stage: 300 - 656 would be a bubble below 0.
    assert got.temporal == pytest.approx(1 - 408 / 1964) == pytest.approx(0.792, abs=0.001)
    assert got.says_switch


def test_large_decode_batches_wait_for_enough_prompts():
    # Decode steps of 100 + 192 = 292 s: spatial 192 / 292 / (256 / 356) = 0.914.
    # Prefills of 2100 s: bubble 3 x (2100 - 292) = 5424, decodes 4 x 292 = 1168.
    #    1: 1 - 5424 / (2100 + 6592) = 0.376
    #   20: 1 - 5424 / (42000 + 6592) = 0.888
    #   40: 1 - 5424 / (84000 + 6592) = 0.940
    verdicts = [compare(LinearCost(), prompts(number, 2000), 192, 50) for number in (1, 20, 40)]
    assert [str(verdict) for verdict in verdicts] == [
        "spatial 0.914, temporal 0.376",
        "spatial 0.914, temporal 0.888",
        "spatial 0.914, temporal 0.940",
    ]
    assert [verdict.says_switch for verdict in verdicts] == [False, False, True]


def test_prefills_shorter_than_a_decode_step_are_a_bubble_too():
    # 110 s against 356 s: bubble 3 x 246 = 738, total 110 + 1424 + 738 = 2272.
    got = compare(LinearCost(), prompts(1, 10), 256, 50)
    assert str(got) == "spatial 1.000, temporal 0.675"
    assert not got.says_switch


def test_reading_the_context_counts():
    # 1000 tokens of context each at 0.01 s: a step takes 100 + 64 + 640 = 804 s, at the peak
    # 100 + 256 + 2560 = 2916 s. Spatial (64 / 804) / (256 / 2916) = 0.907: larger batches would
    # gain little. Bubble 3 x (804 - 300) = 1512, total 900 + 3216 + 1512 = 5628: 0.731.
    got = compare(LinearCost(context_s=0.01), prompts(3, 200), 64, 1000)
    assert str(got) == "spatial 0.907, temporal 0.731"
    assert not got.says_switch


def test_one_stage_has_no_bubble():
    assert str(compare(LinearCost(1), prompts(1, 200), 64, 50)) == "spatial 0.543, temporal 1.000"


def test_a_batch_of_none():
    # Bubble 3 x (300 - 100) = 600, total 300 + 4 x 100 + 600 = 1300.
    assert str(compare(LinearCost(), prompts(1, 200), 0, 0)) == "spatial 0.000, temporal 0.538"


def test_the_switch_looks_at_the_mean_lane():
    # 3 residents in 2 lanes: batches of 2, 102 s. Spatial (2 / 102) / (256 / 356) = 0.027. Bubble
    # 300 - 102 = 198, total 300 + 2 x 102 + 198 = 702: 0.718.
    state = state_with(100, [(8, 20)] * 3, [(200, 4)])
    reason = IntensitySwitch(LinearCost(2)).reason(state, GreedyPrefill().would_admit(state))
    assert reason == "spatial 0.027, temporal 0.718"


def test_where_nothing_waiting_fits_decoding_goes_on():
    # 8 of 10 blocks are in use, the prompt needs 3. The third plan begins a round: it checks.
    state = state_with(10, [(64, 50)] * 2, [(48, 4)])
    policy = make_scheduler("td-pipe", LinearCost(2))
    assert [policy.plan(state, 0.0).decodes for _ in range(3)] == [(0,), (1,), (0,)]
    # All residents end: there is no batch to compare with, and none is needed.
    for request in list(state.resident.values()):
        state.pool.give_back(request.request_id, request.block_ids)
    state.resident.clear()
    choice = policy.plan(state, 0.0)
    assert [chunk.request_id for chunk in choice.prefills] == [2]
    assert choice.reason == "prefill: nothing is resident"
