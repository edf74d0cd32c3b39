"""Times between, below and beyond the measured points."""

import pytest

from tdpipe.core.errors import ConfigError
from tdpipe.cost.profile_table import ProfileTable

TABLE = ProfileTable((8, 16, 32), (0.010, 0.012, 0.020))


@pytest.mark.parametrize(
    ("tokens", "time_s"),
    [(0, 0.010), (8, 0.010), (12, 0.011), (16, 0.012), (20, 0.014), (32, 0.020), (64, 0.036)],
)
def test_straight_lines_between_points(tokens, time_s):
    assert TABLE.time_s(tokens) == pytest.approx(time_s)


def test_one_point_is_a_constant():
    assert [ProfileTable((4,), (0.5,)).time_s(n) for n in (1, 4, 400)] == [0.5] * 3


def test_beyond_a_dense_table_noise_at_its_end_does_not_count():
    seconds = tuple(n * 1e-3 for n in range(1, 100))
    table = ProfileTable(tuple(range(1, 101)), (*seconds, 0.0985))  # a dip at the last point
    assert table.time_s(200) == pytest.approx(0.1985, rel=0.05)
    falling = ProfileTable((1, 2, 3), (0.3, 0.2, 0.1))
    assert falling.time_s(100) == pytest.approx(0.1)


def test_scaled():
    half = TABLE.scaled(0.5)
    assert half.tokens == TABLE.tokens
    assert half.time_s(20) == pytest.approx(TABLE.time_s(20) / 2)


@pytest.mark.parametrize(
    ("tokens", "seconds", "field"),
    [
        ((), (), "profile"),
        ((1, 2), (0.1,), "profile"),
        ((2, 1), (0.1, 0.2), "profile.tokens"),
        ((1, 1), (0.1, 0.2), "profile.tokens"),
        ((-1, 1), (0.1, 0.2), "profile.tokens"),
        ((1, 2.5), (0.1, 0.2), "profile.tokens"),
        ((1, 2), (0.1, -0.2), "profile.seconds"),
        ((1, 2), (0.1, float("nan")), "profile.seconds"),
        ((1, 2), (0.1, float("inf")), "profile.seconds"),
        ((1, 2), (0.1, "0.2"), "profile.seconds"),
    ],
)
def test_what_is_no_table(tokens, seconds, field):
    with pytest.raises(ConfigError) as raised:
        ProfileTable(tokens, seconds)
    assert raised.value.field == field and "\n" not in str(raised.value)
