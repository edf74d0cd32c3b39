"""Devices by name: one for each process, refused where they cannot be meant."""

import pytest

from tdpipe.config.engine_config import EngineConfig
from tdpipe.config.stage_devices import cards_needed, parse_stage_devices
from tdpipe.core.errors import ConfigError


def test_text_and_lists():
    assert parse_stage_devices("cuda:0, cuda:1", 2) == ("cuda:0", "cuda:1")
    assert parse_stage_devices(["cpu"], 1) == ("cpu",)


@pytest.mark.parametrize(
    ("value", "fix"),
    [
        ("cuda:0", "it names 1: give one for each of the 2 processes"),
        ("cuda:0,cuda", "'cuda' is none: use cpu or cuda:N"),
        ("cuda:00,cuda:1", "'cuda:00' is none"),
        ("", "'' is none"),
        (("cpu", "cuda:0"), "use cpu for all of them"),
        (7, "give devices by name"),
        ([0, 1], "give devices by name"),
    ],
)
def test_what_is_refused(value, fix):
    with pytest.raises(ConfigError, match=fix) as caught:
        EngineConfig("m", pipeline_parallel_size=2, stage_devices=value)
    assert caught.value.field == "stage_devices" and caught.value.value == value


@pytest.mark.parametrize(
    ("settings", "field", "fix"),
    [
        ({"device": "cuda"}, "device", "stage_devices names cpu"),
        ({"distributed_executor_backend": "ray"}, "stage_devices", "where there is room"),
        (
            {"stage_devices": "cuda:0,cuda:0,cuda:1,cuda:1", "tensor_parallel_size": 2},
            "stage_devices",
            "need a card each",
        ),
    ],
)
def test_what_does_not_go_together(settings, field, fix):
    with pytest.raises(ConfigError, match=fix) as caught:
        EngineConfig("m", pipeline_parallel_size=2, **{"stage_devices": "cpu,cpu", **settings})
    assert caught.value.field == field


def test_who_shares():
    def shares(devices):
        config = EngineConfig("m", pipeline_parallel_size=2, stage_devices=devices)
        return config.shares_devices()

    assert shares("cuda:1,cuda:1") and shares("cpu,cpu")
    assert not shares("cuda:0,cuda:1") and not shares(None)


def test_cards_needed():
    assert cards_needed(["cuda:0", "cuda:0"]) == 1
    assert cards_needed(["cuda:3", "cuda:10"]) == 11
    assert cards_needed(["cpu", "cpu"]) == 0
