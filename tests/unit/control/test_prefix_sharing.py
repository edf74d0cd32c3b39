"""Requests with common beginnings in the control plane: order, slices, ends, scarce memory."""

from dataclasses import replace

from factories import make_control, make_limits, make_new
from tdpipe.core.batch_plan import BatchResult, Sample


def control_of(scheduler="pp-separate", num_blocks=64, **limits):
    limits = make_limits(num_blocks=num_blocks, block_size=4, **limits)
    return make_control(scheduler, limits, prefix_caching=True)


def starting(request_id, first, num_prompt=10, **params):
    """A request whose prompt is first, first + 1, ..."""
    new = make_new(request_id, num_prompt, **params)
    return replace(new, prompt_token_ids=tuple(range(first, first + num_prompt)))


def step(control):
    plan = control.next_plan(0.0)
    samples = tuple(Sample(piece.request_id, 7) for piece in plan.slices if piece.samples)
    events = control.complete(BatchResult(plan.batch_id, samples))
    control.check()
    return plan, events


def test_requests_that_come_together_are_queued_with_their_like():
    control = control_of()
    firsts = (100, 200, 300, 100, 200, 400)
    control.add([starting(index, first) for index, first in enumerate(firsts)])
    assert list(control.state.waiting) == [0, 3, 1, 4, 2, 5]
    control.add([starting(6, 100), starting(7, 500)])
    assert list(control.state.waiting)[-2:] == [6, 7]


def test_a_first_slice_begins_behind_the_blocks_it_shares():
    control = control_of()
    control.add([starting(0, 100), starting(1, 100, 9)])
    plan, events = step(control)
    first, second = plan.slices
    assert (first.start, first.num_tokens, second.start, second.num_tokens) == (0, 10, 8, 1)
    assert second.new_block_ids[:2] == first.new_block_ids[:2] and len(second.new_block_ids) == 3
    assert [start.request_id for start in plan.starts] == [0, 1] and second.samples
    assert [event.cached_tokens for event in events] == [0, 8]


def test_a_repetition_penalty_needs_all_tokens():
    control = control_of()
    control.add([starting(0, 100), starting(1, 100, repetition_penalty=1.1)])
    plan, _ = step(control)
    assert [piece.start for piece in plan.slices] == [0, 0]


def test_cached_blocks_are_taken_before_others_are_evicted():
    """The first prompt of a batch needs new blocks, the second has the header idle for longest."""
    control = control_of(num_blocks=8)
    firsts_and_lengths = [(100, 10), (300, 13), (500, 16), (100, 10), (300, 13)]
    for index, (first, length) in enumerate(firsts_and_lengths):
        control.add([starting(index, first, length, max_tokens=1)])
    plans = [step(control)[0].slices for _ in range(3)]
    got = [[(piece.request_id, piece.start) for piece in slices] for slices in plans]
    assert got == [[(0, 0), (1, 0)], [(2, 0), (3, 8)], [(4, 4)]]
    assert control.is_idle and control.state.pool.num_free == 8


def test_the_last_user_frees_what_an_aborted_one_computed():
    control = control_of()
    control.add([starting(0, 100), starting(1, 100), starting(2, 100)])
    control.abort(2)
    step(control)
    control.abort(0)
    control.check()
    assert control.state.pool.num_used == 3
    control.abort(1)
    control.check()
    assert control.is_idle and control.state.pool.num_free == 64


def test_a_preempted_request_comes_back_to_the_shared_blocks():
    control = control_of("pp-hybrid", num_blocks=6, num_stages=1)
    control.add([starting(0, 100, max_tokens=9), starting(1, 100, max_tokens=9)])
    starts = []
    while not control.is_idle:
        plan, _ = step(control)
        starts += [piece.start for piece in plan.slices if piece.request_id == 1]
    assert control.state.num_preemptions == 1
    assert starts.count(8) == 2 and 0 not in starts
