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


def test_a_lane_can_lose_all_its_requests():
    state = full_state(2)
    state.resident[0].num_in_flight = 1
    assert make_room(state, [state.resident[1]]) == ((), (1,))
