"""Work stealing: the paper's worked example, conservation, and convergence to equal lanes."""

from hypothesis import given
from hypothesis import strategies as st

from tdpipe.policies.work_stealing import steal


def test_example_of_the_paper():
    """512 requests in 4 lanes; lane 0 comes back with 48 finished, lanes 1 to 3 with 8 each."""
    lanes = [list(range(lane * 128, lane * 128 + 128)) for lane in range(4)]
    sizes = [128] * 4
    first = steal(lanes[0][48:], [], sizes, 0)
    assert (len(first.lane), len(first.withheld)) == (80, 0)
    sizes[0] = 80
    second = steal(lanes[1][8:], [], sizes, 1)
    assert (len(second.lane), len(second.withheld)) == (114, 6)
    sizes[1] = 114
    third = steal(lanes[2][8:], list(second.withheld), sizes, 2)
    assert (len(third.lane), len(third.withheld)) == (112, 14)
    sizes[2] = 112
    fourth = steal(lanes[3][8:], list(third.withheld), sizes, 3)
    assert (len(fourth.lane), len(fourth.withheld)) == (110, 24)
    sizes[3] = 110
    again = steal(list(first.lane), list(fourth.withheld), sizes, 0)
    assert (len(again.lane), len(again.withheld)) == (104, 0)


def test_withholds_the_newest_and_tops_up_with_the_oldest():
    assert steal([1, 2, 3, 4], [], [4, 0], 0).withheld == (3, 4)
    assert steal([1], [7, 8, 9], [1, 2], 0).lane == (1, 7, 8)


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=5),
    st.integers(0, 10),
    st.integers(0, 10),
    st.data(),
)
def test_nothing_is_lost_and_something_always_runs(sizes, num_withheld, finished, data):
    index = data.draw(st.integers(0, len(sizes) - 1))
    lane = list(range(max(0, sizes[index] - finished)))
    withheld = list(range(1000, 1000 + num_withheld))
    shares = steal(lane, withheld, sizes, index)
    assert sorted(shares.lane + shares.withheld) == sorted(lane + withheld)
    if lane or withheld:
        assert shares.lane, "a lane with requests at hand may not stay empty"


def test_lanes_become_equal_within_two_rounds():
    lanes = [list(range(100)), list(range(200, 220)), list(range(300, 340)), [400]]
    withheld: list[int] = []
    for turn in range(8):
        index = turn % 4
        shares = steal(lanes[index], withheld, [len(lane) for lane in lanes], index)
        lanes[index], withheld = list(shares.lane), list(shares.withheld)
    sizes = [len(lane) for lane in lanes]
    assert max(sizes) - min(sizes) <= 3 and not withheld
