"""Profiles survive a file, and a file that is not the right one is refused in one line."""

import json
from dataclasses import replace

import pytest

from factories import SMALL_MODEL
from tdpipe.config.profile_file import ProfileKey, load_profile, read_profile_csv, save_profile
from tdpipe.core.errors import ConfigError
from tdpipe.cost.profile_table import ProfileTable
from tdpipe.cost.profiled_cost import ProfiledCost, StageProfile

KEY = ProfileKey("small", SMALL_MODEL, "float32", "cpu", (16, 14), 1, "a processor, 2 cores")
TABLE = ProfileTable((1, 8), (0.01, 0.02))
STAGE = StageProfile(TABLE, TABLE.scaled(2), 1e-9, 2e-9, 3e-9, 4e-9)
COST = ProfiledCost((STAGE, replace(STAGE, pair_s=0.1 + 0.2)), 1e-4, 1e-7, (16, 14))


def refused(path, expected=None):
    """The one line with which a file is refused."""
    with pytest.raises(ConfigError) as raised:
        load_profile(path, expected)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_round_trip(tmp_path):
    path = tmp_path / "new" / "profile.json"
    save_profile(path, KEY, COST)
    assert load_profile(path) == load_profile(path, KEY) == (KEY, COST)
    assert [file.name for file in path.parent.iterdir()] == ["profile.json"]


def test_a_models_name_is_not_what_its_speed_depends_on(tmp_path):
    save_profile(tmp_path / "p", KEY, COST)
    assert load_profile(tmp_path / "p", replace(KEY, model="../small"))[1] == COST


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"shape": replace(SMALL_MODEL, num_layers=29)}, "another model"),
        ({"dtype": "bfloat16"}, "another dtype (float32, not bfloat16)"),
        ({"device": "cuda"}, "another device"),
        ({"layers": (15, 15)}, "another layers ((16, 14), not (15, 15))"),
        ({"threads_per_stage": 2}, "another threads_per_stage"),
        ({"machine": "abacus"}, "another machine"),
    ],
)
def test_foreign(tmp_path, changes, shown):
    save_profile(tmp_path / "p", KEY, COST)
    assert shown in refused(tmp_path / "p", replace(KEY, **changes))


@pytest.mark.parametrize("text", ["", "no json", "[]", "3", "{}", '{"tdpipe_profile": 0}'])
def test_not_a_profile(tmp_path, text):
    (tmp_path / "p").write_text(text)
    assert "not a profile of format 1" in refused(tmp_path / "p")


def test_damaged(tmp_path):
    path = tmp_path / "p"
    save_profile(path, KEY, COST)
    text = path.read_text()
    path.write_text(text[:300])
    assert "not a profile" in refused(path)
    values = json.loads(text)
    for change in (
        lambda cost: cost["stages"].pop(),
        lambda cost: cost["stages"][0].update(pair_s=-1),
        lambda cost: cost["stages"][0].update(pair_s="fast"),
        lambda cost: cost["stages"][1]["dense"].update(tokens=[8, 1]),
        lambda cost: cost.update(link_latency_s=float("nan")),
    ):
        changed = json.loads(json.dumps(values))
        change(changed["cost"])
        path.write_text(json.dumps(changed))
        assert "it is damaged: profile." in refused(path)
    for change in (
        lambda cost: cost.update(more=1),
        lambda cost: cost["stages"][0].pop("dense"),
        lambda cost: cost.update(stages=7),
    ):
        changed = json.loads(json.dumps(values))
        change(changed["cost"])
        path.write_text(json.dumps(changed))
        assert "not a profile" in refused(path)


def test_absent_and_unreadable(tmp_path):
    assert "there is no such file" in refused(tmp_path / "absent")
    assert "cannot be read" in refused(tmp_path)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    assert "not text" in refused(tmp_path / "bytes")
    with pytest.raises(ConfigError, match="cannot be written"):
        save_profile(tmp_path / "bytes" / "p", KEY, COST)
    with pytest.raises(ConfigError, match="cannot be written"):
        save_profile(tmp_path, KEY, COST)


def test_csv(tmp_path):
    path = tmp_path / "whole.csv"
    path.write_text("Total Length,Execute Time\n1,35.5\n2, 37\n\n64,43.9\n")
    table = read_profile_csv(path)
    assert table.tokens == (1, 2, 64)
    assert table.seconds == pytest.approx((0.0355, 0.037, 0.0439))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", "first line is Total Length,Execute Time"),
        ("tokens,ms\n1,2\n", "first line is Total Length,Execute Time"),
        ("Total Length,Execute Time\n", "at least one"),
        ("Total Length,Execute Time\n1,2\n2\n", "line 3"),
        ("Total Length,Execute Time\n1.5,2\n", "line 2"),
        ("Total Length,Execute Time\n1,nan\n", "profile.seconds"),
        ("Total Length,Execute Time\n2,1\n1,1\n", "profile.tokens"),
    ],
)
def test_csv_that_is_none(tmp_path, text, shown):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ConfigError) as raised:
        read_profile_csv(tmp_path / "t.csv")
    assert shown in str(raised.value) and "\n" not in str(raised.value)
