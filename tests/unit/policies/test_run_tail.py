"""Who is alive after the last prompt, against requests counted one by one."""

from itertools import repeat

import pytest

from tdpipe.policies.run_tail import PARTS, Group, grouped, tail


def singles(*tokens):
    return map(Group, repeat(1), tokens)


def test_the_few_longest_are_in_groups_of_their_own():
    assert grouped([]) == []
    assert grouped(singles(90, 50, 40, 30, 20, 20, 10, 5)) == [(1, 90), (2, 45), (4, 20), (1, 5)]
    # Of groups, too: the second of three joins the first of ten.
    assert grouped([Group(2, 60.0), Group(10, 30.0)]) == [(1, 60), (2, 45), (4, 30), (5, 30)]


def test_residents_end_after_their_tokens():
    residents = [Group(1, 100.0), Group(2, 40.0), Group(4, 10.0)]
    assert tail(residents, [], 0.0) == [(60, 1), (30, 3), (10, 7)]
    # After 30 rounds of prompts four have ended.
    assert tail(residents, [], 30.0) == [(60, 1), (10, 3)]
    assert tail(residents, [], 100.0) == tail([], [], 0.0) == []


@pytest.mark.parametrize("rounds", [20, 100, 1000])
def test_waiting_requests_start_evenly(rounds):
    """As many tokens after the last prompt as 500 requests have whose starts are counted out."""
    ends = [100 - start / 500 * rounds for start in range(500)]
    found = tail([], [Group(500, 100.0)], rounds)
    tokens = sum(length * alive for length, alive in found)
    assert tokens == pytest.approx(sum(max(0.0, end) for end in ends), rel=0.02)
    most = sum(end > 0 for end in ends)
    assert found[-1][1] == pytest.approx(most, rel=0.01)
    assert sum(length for length, _ in found) == pytest.approx(100, abs=100 / PARTS)


def test_a_single_long_one_is_left_with_a_chance():
    found = tail([], [Group(1, 50.0), Group(10**6, 0.0)], 200.0)
    assert found[-1][1] == pytest.approx(0.25)  # 150 of 200 starts are too early
    # But a request that waits alone starts with the last prompt.
    assert tail([], [Group(1, 50.0)], 200.0)[0] == (0, 0.25)
    assert tail([], [Group(1, 50.0)], 200.0)[-1] == (50, 1)
