"""Every job is handed out once, within the windows, to who has least to do; slow ones get less."""

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdpipe.replicas.assignment import MAX_WINDOW, Assignment, ReplicaQueue, window_of

LONG, SHORT = 100.0, 1.0


def filled(windows, works):
    assignment = Assignment(windows)
    for number, work in enumerate(works):
        assignment.add(number, work)
    return assignment


def test_the_window_follows_what_runs_at_once():
    assert window_of(2, 256) == 2048 and window_of(1, 1) == 16
    assert window_of(64, 4096) == MAX_WINDOW


def test_to_whom_has_the_least_work():
    assignment = filled([9, 9], [LONG, SHORT, SHORT, SHORT, LONG])
    assert assignment.hand_out() == [(0, 0), (1, 1), (1, 2), (1, 3), (1, 4)]
    assert assignment.outstanding(1) == [1, 2, 3, 4] and assignment.num_open == 5


def test_what_is_done_weighs_no_more():
    assignment = filled([9, 9], [LONG, SHORT, SHORT])
    assignment.hand_out()
    assert assignment.done(0, 0)
    for number in (3, 4, 5):
        assignment.add(number, SHORT)
    assert assignment.hand_out() == [(0, 3), (0, 4), (0, 5)]


def test_no_more_than_the_window():
    assignment = filled([2, 1], [SHORT] * 5)
    assert len(assignment.hand_out()) == 3 and not assignment.has_room
    assert assignment.hand_out() == []
    assert assignment.done(1, assignment.outstanding(1)[0])
    assert [replica for replica, _ in assignment.hand_out()] == [1]


def test_a_lost_replicas_jobs_come_first_and_its_late_results_do_not_count():
    assignment = filled([2, 2], [SHORT] * 5)
    given_ = dict(reversed(pair) for pair in assignment.hand_out())
    mine = [number for number, replica in given_.items() if replica == 0]
    assert assignment.lost(0) == mine
    assert not assignment.done(0, mine[0])
    for number in [number for number, replica in given_.items() if replica == 1]:
        assert assignment.done(1, number)
    assert assignment.hand_out() == [(1, number) for number in mine]
    assert assignment.num_open == 3


def test_waiting_jobs_move_once_to_a_dry_replica():
    assignment = filled([8, 8], [SHORT] * 8)
    assignment.hand_out()
    for number in assignment.outstanding(1):
        assignment.done(1, number)
    queues = [ReplicaQueue(4, 3), ReplicaQueue(4, 0)]
    assert assignment.to_move([ReplicaQueue(4, 3), ReplicaQueue(3, 0)]) is None  # on its way
    assert assignment.to_move([ReplicaQueue(4, 3), ReplicaQueue(4, 1)]) is None  # not dry
    last_two = assignment.outstanding(0)[:-3:-1]
    assert assignment.to_move(queues) == (0, last_two)
    assert assignment.to_move(queues) is None  # asked already
    assert assignment.given_back(0, last_two) == last_two
    assert assignment.hand_out() == [(1, number) for number in last_two]
    assignment.done(0, assignment.outstanding(0)[0])
    assignment.done(0, assignment.outstanding(0)[0])
    assert assignment.to_move([ReplicaQueue(4, 0), ReplicaQueue(6, 1)]) is None  # not again


def test_who_has_as_much_to_do_is_given_nothing():
    """Its engine has begun all of its jobs at once; the other's takes them one by one."""
    assignment = filled([9, 9], [SHORT] * 18)
    assignment.hand_out()
    queues = [ReplicaQueue(9, 8), ReplicaQueue(9, 0)]
    assert assignment.to_move(queues) is None
    for number in assignment.outstanding(1)[:4]:
        assignment.done(1, number)
    latest = assignment.outstanding(0)[:-3:-1]
    assert assignment.to_move(queues) == (0, latest)  # 9 and 5: two move


def test_work_is_evened_over_all_that_are_dry():
    assignment = filled([9, 9, 9], [LONG, LONG, *[SHORT] * 8])
    assignment.hand_out()  # the short ones to the third
    for number in assignment.outstanding(1):
        assignment.done(1, number)
    queues = [ReplicaQueue(1, 1), ReplicaQueue(1, 0), ReplicaQueue(8, 0)]
    assert assignment.to_move(queues) == (0, [0])  # two are dry, even is 36 each
    assert assignment.given_back(0, [0]) == [0]
    assert assignment.hand_out() == [(1, 0)]


def test_a_job_that_had_begun_is_not_asked_for_again():
    assignment = filled([8, 8], [SHORT] * 12)
    assignment.hand_out()
    for number in assignment.outstanding(1):
        assignment.done(1, number)
    queues = [ReplicaQueue(6, 3), ReplicaQueue(6, 0)]
    mine = assignment.outstanding(0)
    assert assignment.to_move(queues) == (0, mine[:-4:-1])
    assignment.given_back(0, [])
    assert assignment.to_move(queues) == (0, mine[:3][::-1])


def test_a_job_given_up_does_not_return_to_who_gave_it_up():
    assignment = filled([8, 8], [LONG, LONG])
    assignment.hand_out()
    assignment.given_back(0, [0])
    assert assignment.hand_out() == [(1, 0)]
    assignment.lost(1)
    assert sorted(assignment.hand_out()) == [(0, 0), (0, 1)]  # unless nobody else is left


@pytest.mark.parametrize(("fast", "slow"), [(1.0, 3.0), (1.0, 10.0)])
def test_a_slow_replica_gets_less(fast, slow):
    """Replicas that compute one job after the other, so many seconds a unit of work."""
    windows, seconds, count = [4, 4], [fast, slow], 300
    assignment = filled(windows, [1.0 + number % 3 for number in range(count)])
    work = {number: 1.0 + number % 3 for number in range(count)}
    ends, num_done, now_s = [], [0, 0], 0.0
    free_s = [0.0, 0.0]

    def start():
        for replica, number in assignment.hand_out():
            free_s[replica] = max(free_s[replica], now_s) + seconds[replica] * work[number]
            heapq.heappush(ends, (free_s[replica], replica, number))

    start()
    while ends:
        now_s, replica, number = heapq.heappop(ends)
        assert assignment.done(replica, number)
        num_done[replica] += 1
        start()
    assert sum(num_done) == count
    assert num_done[0] / num_done[1] == pytest.approx(slow / fast, rel=0.25)
    # The last one ends no later than a full window of the slow one after the best time.
    best_s = sum(work.values()) / (1 / fast + 1 / slow)
    assert now_s <= best_s + windows[1] * 3.0 * slow


STEPS = st.lists(
    st.tuples(st.sampled_from(["end", "lose", "ask"]), st.integers(0, 99), st.integers(0, 3)),
    max_size=80,
)


@given(
    windows=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    works=st.lists(st.floats(0.1, 100.0), max_size=40),
    steps=STEPS,
)
def test_every_job_is_done_once_whatever_happens(windows, works, steps):
    assignment = filled(windows, works)
    living, holders, done = set(range(len(windows))), {}, set()

    def hand_out():
        for replica, number in assignment.hand_out():
            assert replica in living and number not in holders and number not in done
            holders[number] = replica
        for replica in living:
            mine = [number for number, holder in holders.items() if holder == replica]
            assert sorted(assignment.outstanding(replica)) == sorted(mine)
            assert len(mine) <= windows[replica]

    def end(number):
        assert assignment.done(holders.pop(number), number)
        done.add(number)

    hand_out()
    for what, pick, replica in steps:
        if what == "end" and holders:
            end(sorted(holders)[pick % len(holders)])
        elif what == "lose" and replica in living and len(living) > 1:
            living.discard(replica)
            back = assignment.lost(replica)
            assert set(back) == {one for one, holder in holders.items() if holder == replica}
            for number in back:
                del holders[number]
        elif what == "ask":
            queues = [ReplicaQueue(10**6, (pick + i) % 3) for i in range(len(windows))]
            move = assignment.to_move(queues)
            if move is not None:
                donor, numbers = move
                assert all(holders[number] == donor for number in numbers)
                kept = numbers[: pick % (len(numbers) + 1)]  # begun, meanwhile
                back = assignment.given_back(donor, [n for n in numbers if n not in kept])
                for number in back:
                    del holders[number]
        hand_out()
        assert assignment.num_open == len(works) - len(done)
    while holders:
        end(min(holders))
        hand_out()
    assert done == set(range(len(works))) and assignment.num_open == 0
