"""The parts of the adaptive scheduler: order of admission, forecast, batch size, lanes."""

import pytest

from factories import add_resident, make_cost, make_limits, make_request, make_state
from tdpipe.core.block_pool import blocks_for
from tdpipe.cost.cost_model import BatchLoad
from tdpipe.cost.hardware_catalogue import find_device
from tdpipe.cost.model_catalogue import find_model
from tdpipe.cost.placement import place
from tdpipe.cost.profile_table import ProfileTable
from tdpipe.cost.profiled_cost import ProfiledCost, StageProfile
from tdpipe.policies.adaptive import Adaptive, hold_back, kv_token_rounds
from tdpipe.policies.admission_order import AdmissionOrder, Sums
from tdpipe.policies.batch_sizing import LARGEST, LAST_SIZES, BatchSizing, Outlook
from tdpipe.policies.kv_timeline import END_SHARE, NUM_INTERVALS, KVTimeline
from tdpipe.policies.length_survival import class_of
from tdpipe.policies.run_tail import Group
from tdpipe.policies.saturation import batch_time_s, efficient_tokens, free_tokens


def order_of(state, order):
    """Ids in the order in which they would be admitted."""
    taken = []
    while True:
        head = next(iter(order.heads(state)), None)
        if head is None:
            return taken
        order.take(head)
        del state.waiting[head.request_id]
        taken.append(head.request_id)


def test_late_classes_first_then_each_at_its_own_pace():
    lengths = [10, 500, 10, 2000, 10, 60, 10, 60]
    state = make_state(waiting=[make_request(i, predicted=n) for i, n in enumerate(lengths)])
    order = AdmissionOrder()
    order.follow(state)
    assert sum(one.forecast_tokens for one in order.by_forecast().values()) == sum(lengths)
    # 400 rounds are left: the class of 2000 should have started first, then that of 500. The
    # class of 10 has 400 rounds for its four, one every 100; that of 60 has 300 for two.
    needed = {2000: 2000.0, 500: 600.0, 60: 100.0, 10: 0.0}
    by_class = {class_of(length): rounds for length, rounds in needed.items()}
    order.spread(400, lambda key, waiting: by_class[key])
    # Due at 0, 100, 200, 300 and at 0, 150; of two that are due, the one with less time left first.
    assert order_of(state, order) == [3, 1, 5, 0, 2, 7, 4, 6]
    assert all(one.forecast_tokens == 0 for one in order.by_forecast().values())


def test_of_equal_forecasts_those_with_long_prompts_may_start_last():
    prompts = [500, 20, 500, 20]
    state = make_state(
        waiting=[make_request(i, num_prompt=n, predicted=50) for i, n in enumerate(prompts)]
    )
    order = AdmissionOrder()
    order.follow(state)
    assert {key.forecast for key in order.classes} == {class_of(50)} and len(order.classes) == 2
    # 100 rounds are left. What a request may overhang the end by is a share of its work: those with
    # short prompts are late.
    order.spread(100, lambda key, waiting: 520 - waiting.mean_prompt_tokens)
    assert order_of(state, order) == [1, 3, 0, 2]


def test_rounds_left_are_those_of_the_cache_where_it_is_small():
    residents = [make_request(0, 100, 50), make_request(1, 200, 50)]
    waiting = Sums()
    for i in range(3):
        waiting.count(make_request(10 + i, 300, 60), 1)
    # Each takes its prompt's tokens, and on average half of what it generates, for as many rounds.
    expected = 40 * (100 + 20) + 10 * (200 + 5) + 2 * 60 * (300 + 30) + 90 * (300 + 45)
    groups = [Group(2, 60.0), Group(1, 90.0)]
    assert kv_token_rounds(residents, [40, 10], [(waiting, groups)]) == expected
    sizing = BatchSizing(place(find_model("llama-2-13b"), find_device("L20"), 4).cost())
    size = sizing.size(outlook())
    assert (
        sizing.rounds_left(outlook(kv_rounds=9e3), size)
        == 9e3
        > sizing.rounds_left(outlook(), size)
    )


def test_the_order_follows_arrivals_preemptions_and_aborts():
    state = make_state(waiting=[make_request(i, predicted=50) for i in range(3)])
    order = AdmissionOrder()
    order.follow(state)
    first = next(iter(order.heads(state)))
    order.take(first)
    del state.waiting[0]
    state.waiting[9] = make_request(9, predicted=50)  # arrives
    del state.waiting[1]  # aborted
    state.waiting[0] = first  # preempted: to the front of the queue
    first.num_preemptions = 1
    state.waiting.move_to_end(0, last=False)
    order.follow(state)
    assert order_of(state, order) == [0, 2, 9]


def to_come(request):
    return max(1, request.predicted_remaining)


def brute_force(requests, block_size, interval):
    """Blocks in use in each interval, request by request."""
    blocks = [0.0] * NUM_INTERVALS
    for request in requests:
        remaining = to_come(request)
        last = min(remaining // interval, NUM_INTERVALS - 1)
        for index in range(last + 1):
            grown = (index + 0.5) * interval if index < last else remaining
            share = 1.0 if index < last else END_SHARE
            blocks[index] += share * (request.num_tokens + block_size // 2 + grown) / block_size
    return blocks


def test_timeline_equals_brute_force():
    requests = [make_request(i, 7 * i + 1, 13 * i + 2) for i in range(40)]
    requests[5].output_token_ids.extend([1] * 90)  # has outlived its forecast
    timeline = KVTimeline(16, to_come)
    timeline.rebuild(requests, list(map(to_come, requests)), longest=600)
    assert timeline.interval == 10
    assert timeline.blocks == pytest.approx(brute_force(requests, 16, 10))
    more = make_request(99, 100, 333)
    timeline.add(more)
    assert timeline.blocks == pytest.approx(brute_force([*requests, more], 16, 10))


def test_a_long_prompt_fills_the_cache_only_as_fast_as_it_is_computed():
    timeline = KVTimeline(16, to_come)
    timeline.rebuild([], [], longest=640)
    long = make_request(0, 4000, 100)
    at_once = timeline.peak_with(long, 10**6)
    assert at_once == pytest.approx((4000 + 8 + 95) / 16)
    assert timeline.peak_with(long, 10) < blocks_for(10 * 110, 16) + 1


def test_saturation_points_are_where_the_roofline_bends():
    cost = place(find_model("llama-2-13b"), find_device("L20"), 4).cost()
    free, efficient = free_tokens(cost), efficient_tokens(cost, 0.95)
    one_s = cost.layer_time_s(BatchLoad(prefill_tokens=1))
    bend = next(n for n in range(500) if cost.layer_time_s(BatchLoad(prefill_tokens=n)) > one_s)
    assert bend <= free <= 1.15 * bend < 200
    assert bend < efficient < efficient_tokens(cost, 0.98) < 500


def outlook(**changes):
    settings = {
        "prompt_tokens": 10**6, "output_tokens": 10**6, "resident": [Group(200, 100.0)],
        "waiting": [Group(9800, 100.0)], "decodes": 50.0, "room": 1.0, "is_full": False,
        "all_fit": False, "num_requests": 10**4, "num_waiting": 9800, "most_decodes": 10**4,
        "kv_rounds": 0.0,
    }  # fmt: skip
    return Outlook(**{**settings, **changes})


def test_each_limit_of_the_batch_size():
    sizing = BatchSizing(place(find_model("llama-2-13b"), find_device("L20"), 4).cost())
    assert sizing.size(outlook()) == (sizing.ample, "efficient")
    assert sizing.size(outlook(is_full=True)) == (sizing.scarce, "efficient")
    # 2,000,000 tokens over 4 stages are 2500 rounds of 200 tokens.
    size = sizing.size(outlook(resident=[Group(1, 2500.0), Group(199, 100.0)]))
    assert size.limit == "chain" and 180 <= size.tokens <= 205
    # A waiting request has fewer rounds: those from its start on.
    later = sizing.size(outlook(waiting=[Group(1, 1600.0), Group(9799, 100.0)]))
    assert later.limit == "chain" and sizing.free <= later.tokens <= size.tokens
    # Many long ones fill the batches of each other.
    many = sizing.size(outlook(waiting=[Group(30, 2000.0), Group(9770, 100.0)]))
    assert many == (sizing.ample, "efficient")
    # A full cache: 90 decodes a batch make room for as many prompt tokens.
    assert sizing.size(outlook(decodes=90.0, room=0.05)) == (180, "flow")
    assert sizing.size(outlook(decodes=3.0, room=0.05)) == (sizing.free, "free")
    assert sizing.rounds_left(outlook(), sizing.size(outlook())) == 2e6 / 4 / sizing.ample
    # All fits: a sixteenth of the prompts beside 50 decodes; of few prompts, what is free.
    assert sizing.size(outlook(all_fit=True)) == (50 + 10**6 // 16, "prefill")
    few = sizing.size(outlook(all_fit=True, prompt_tokens=32, decodes=2.0 * LARGEST))
    assert few == (2 * LARGEST + sizing.free, "prefill")
    # Too few to decode on their own: prompts are kept to fill their batches up.
    scarce = outlook(all_fit=True, num_requests=4 * sizing.ample - 1)
    assert sizing.size(scarce) == (LARGEST, "efficient")


def test_batches_shrink_towards_the_last_prompt():
    sizing = BatchSizing(place(find_model("llama-2-13b"), find_device("L20"), 4).cost())
    least = LAST_SIZES * sizing.scarce
    # A sixteenth of what waits, beside the decodes.
    assert sizing.shrunk(2000, 50, 16 * 5000) == 2000
    assert sizing.shrunk(2000, 50, 16 * 1000) == 1050
    assert sizing.shrunk(2000, 50, 16 * 10) == least
    assert sizing.shrunk(200, 50, 16 * 10) == 200 < least


def test_an_empty_pipeline_is_filled_by_a_few_prompts_in_several_batches():
    cost = place(find_model("llama-2-13b"), find_device("L20"), 4).cost()
    sizing = BatchSizing(cost)

    def filled_s(size, prompt_tokens=10**4):
        """All batches on the first stage, then the last one on three more."""
        return (prompt_tokens / size + 3) * batch_time_s(cost, size)

    few = sizing.size(outlook(prompt_tokens=10**4, decodes=0.0))
    assert few.limit == "fill" and sizing.free < few.tokens < sizing.ample / 1.5
    assert filled_s(few.tokens) < 0.98 * filled_s(sizing.ample)
    assert filled_s(few.tokens) < 1.01 * min(filled_s(n) for n in range(1, sizing.ample))
    # With decodes or with many prompts the stages fill themselves.
    assert sizing.size(outlook(prompt_tokens=10**4)).limit == "efficient"
    assert sizing.size(outlook(decodes=0.0)) == (sizing.ample, "efficient")


def test_tail_share():
    sizing = BatchSizing(place(find_model("llama-2-13b"), find_device("L20"), 4).cost())
    number = 4 * sizing.free  # alive, to fill all batches
    assert sizing.tail_share([], 0) == 0
    # Equal lengths end together. One that is 50 longer runs on for 50 rounds, almost all empty.
    assert sizing.tail_share([100] * number, 0) == pytest.approx(0)
    lost = 50 * (1 - 1 / number)
    rounds = (100 * number + 50) / number
    assert sizing.tail_share([100] * (number - 1) + [150], 0) == pytest.approx(lost / rounds)
    # Half as many leave half of each batch empty; prompts make the whole run longer.
    assert sizing.tail_share([100] * (number // 2), 0) == pytest.approx(1.0, rel=0.02)
    assert sizing.tail_share([100] * (number // 2), 50 * number) == pytest.approx(0.5, rel=0.02)


def test_all_fit_while_the_lives_forecast_leave_room_for_one_another():
    def all_fit(num_blocks, *lengths):
        state = make_state(
            make_limits(num_stages=2, num_blocks=num_blocks, max_num_seqs=8),
            waiting=[make_request(i, 16, 1000, n) for i, n in enumerate(lengths)],
        )
        scheduler = Adaptive(make_cost(2))
        scheduler.sizing.free = 1  # the few requests here are enough to fill batches
        return scheduler._all_fit(state, [])

    # At the end of 304 tokens each of the 8 holds 20 blocks.
    assert all_fit(260, *[304] * 8) and not all_fit(140, *[304] * 8)
    # The short ones have gone when the long ones are at their largest.
    assert all_fit(140, *[304, 20] * 4)
    assert not all_fit(1000, *[1] * 17)  # 16 places
    assert all_fit(1)  # nothing waits


def test_a_lane_takes_its_share_of_time_not_of_requests():
    state = make_state(make_limits(num_stages=2, num_blocks=2000))
    long = [add_resident(state, make_request(i, 2000)) for i in range(2)]
    for index in range(2, 22):
        add_resident(state, make_request(index, 20))
    lane, _ = Adaptive(make_cost(2))._next_lane(state)
    assert lane[0] is long[0] and len(lane) < 11


def measured(decode_s, dense_s=None):
    """Two equal stages by tables of tokens and seconds."""
    decode, dense = (
        ProfileTable(*zip(*one.items(), strict=True)) for one in (decode_s, dense_s or decode_s)
    )
    return ProfiledCost((StageProfile(dense, decode),) * 2, 0.0, 0.0, (1, 1))


@pytest.mark.parametrize("num_decodes", [7, 8, 20])
def test_a_lane_takes_half_where_one_more_costs_nothing(num_decodes):
    """Steps of 1 to 16 sequences take the read of the weights, and the contexts nothing."""
    state = make_state(make_limits(num_stages=2, num_blocks=2000))
    for index in range(num_decodes):
        add_resident(state, make_request(index, 20))
    lane, _ = Adaptive(measured({1: 0.02, 16: 0.02, 32: 0.04}))._next_lane(state)
    assert len(lane) == -(-num_decodes // 2)


def test_the_best_rate_may_be_that_of_few_tokens():
    """Where 64 tokens were the fastest, if by chance, more are nothing to wait for."""
    cost = measured({1: 0.02, 16: 0.02, 64: 0.064, 128: 0.14, 1024: 1.13})
    assert efficient_tokens(cost, 0.98) == 52
    assert efficient_tokens(cost, 0.75) == 15 and efficient_tokens(cost, 0.5) == 10


def test_a_prompt_gets_in_beside_the_decodes():
    """A batch of nine costs no more than one; but ten decodes would leave no room for a prompt."""
    sizing = BatchSizing(measured({1: 0.02, 9: 0.02, 64: 0.09, 1024: 1.4}))
    assert sizing.free == 9
    last = outlook(
        prompt_tokens=60, output_tokens=2000, resident=[Group(1, 150.0), Group(19, 90.0)],
        waiting=[Group(1, 90.0)], decodes=10.0, num_requests=21, num_waiting=1,
    )  # fmt: skip
    assert sizing.size(last).tokens > 10


def test_requests_without_a_block_wait_while_most_of_the_lane_goes_on():
    state = make_state(make_limits(num_blocks=5))
    # Contexts that fill their blocks: each needs a new one now. One is free.
    full = [add_resident(state, make_request(i, 15)) for i in range(2)]
    roomy = [add_resident(state, make_request(i, 8)) for i in range(2, 4)]
    for request in full:
        request.num_scheduled = request.prefill_target = 16
    stay, victims = hold_back(state, [*full, *roomy])
    assert (stay, victims) == ([full[0], *roomy], ())
    state.pool.hold(77, 1)
    stay, victims = hold_back(state, full)
    assert (stay, victims) == (full, (3, 2))  # the youngest give way
