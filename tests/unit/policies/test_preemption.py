"""Who is preempted when blocks run out."""

from factories import add_resident, make_limits, make_request, make_state
from tdpipe.policies.preemption import make_room


def full_state(num_requests=4, tokens=16):
    """Every request fills its one block, so each decode needs one more; none is free."""
    state = make_state(make_limits(num_blocks=num_requests))
    for index in range(num_requests):
        add_resident(state, make_request(index, tokens, 50))
    return state


def test_youngest_go_first_until_the_rest_fits():
    state = full_state()
    decodes, victims = make_room(state, list(state.resident.values()))
    assert (decodes, victims) == ((0, 1), (3, 2))


def test_requests_in_flight_are_spared():
    state = full_state()
    state.resident[3].num_in_flight = 1
    decodes, victims = make_room(state, [state.resident[0], state.resident[1]])
    assert (decodes, victims) == ((0,), (2, 1))


def test_nobody_goes_when_blocks_suffice():
    state = full_state()
    state.pool.give_back(3, state.resident.pop(3).block_ids)
    assert make_room(state, [state.resident[0]]) == ((0,), ())


def test_a_block_that_others_hold_is_not_gained():
    """The two youngest share their first block, so one of them frees a single block."""
    state = make_state(make_limits(num_blocks=7))
    for index in range(4):
        add_resident(state, make_request(index, 32 if index > 1 else 16, 50))
    shared, own = state.resident[2], state.resident[3].block_ids
    state.pool.cache(shared.block_ids[0])
    state.pool.give_back(3, own)
    own[0] = shared.block_ids[0]
    state.pool.join(3, own[:1])
    own[1:] = state.pool.hold(3, 1)
    state.pool.hold(99, 2)
    shared.num_shared_blocks = state.resident[3].num_shared_blocks = 1
    assert [state.blocks_freed(one) for one in state.resident.values()] == [1, 1, 1, 1]
    assert make_room(state, [state.resident[0], state.resident[1]]) == ((0, 1), (3, 2))


def test_a_lane_can_lose_all_its_requests():
    state = full_state(2)
    state.resident[0].num_in_flight = 1
    assert make_room(state, [state.resident[1]]) == ((), (1,))
