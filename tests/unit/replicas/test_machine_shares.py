"""Cores, cards and memory of each replica."""

import pytest

from tdpipe.config.engine_config import EngineConfig
from tdpipe.core.errors import CapacityError, ConfigError
from tdpipe.execution.models.model_source import resolve_model
from tdpipe.frontend.pipeline_setup import resolve_setup
from tdpipe.replicas import replica_pool
from tdpipe.replicas.machine_shares import card_groups, core_groups


def test_cores_are_split_where_there_are_enough():
    assert core_groups(range(8), 2, 2) == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert core_groups([3, 1, 9], 2, 1) == [(1,), (3, 9)]
    groups = core_groups(range(17), 5, 3)
    assert sum(groups, ()) == tuple(range(17)) and min(map(len, groups)) >= 3


def test_cores_are_shared_in_turn_where_there_are_not():
    assert core_groups([0, 1], 3, 1) == [(0,), (1,), (0,)]
    assert core_groups([0, 1, 2], 2, 2) == [(0, 1), (0, 2)]
    assert core_groups([5], 2, 2) == [(5,), (5,)]


def test_cards():
    assert card_groups(["0", "1", "2", "3", "4"], 2, 2, "cuda") == [("0", "1"), ("2", "3")]
    assert card_groups(["GPU-a", "GPU-b"], 2, 1, "auto") == [("GPU-a",), ("GPU-b",)]
    assert card_groups(["0"], 2, 1, "cpu") is None
    assert card_groups([], 2, 1, "auto") is None and card_groups(["0"], 2, 2, "auto") is None


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_too_few_cards(device):
    fix = "replicas=3: there are 5 CUDA devices and each replica takes 2; use 2 at most, or devi"
    with pytest.raises(ConfigError, match=fix):
        card_groups(list("01234"), 3, 2, device)


def test_no_cards():
    with pytest.raises(ConfigError, match=r"replicas=2: there are 0 CUDA devices.*use device cpu"):
        card_groups([], 2, 1, "cuda")


def test_memory_is_shared():
    """A model that fits the machine, and not the small part of it that is this engine's."""
    source = resolve_model("smollm2-135m-instruct")
    config = EngineConfig("smollm2-135m-instruct", device="cpu")
    resolve_setup(config, source, 0.5)
    with pytest.raises(CapacityError, match="free on this machine"):
        resolve_setup(config, source, 1e-3)


def test_replicas_whose_stages_share_a_card_take_one_each(monkeypatch):
    monkeypatch.setattr(replica_pool, "visible_cards", lambda device: ["5", "7", "9"])
    config = EngineConfig("m", pipeline_parallel_size=4, stage_devices=["cuda:0"] * 4)
    _, environments = replica_pool._machine_shares(config, 2)
    assert [one["CUDA_VISIBLE_DEVICES"] for one in environments] == ["5", "7"]
    on_cpu = EngineConfig("m", pipeline_parallel_size=2, stage_devices="cpu,cpu")
    assert replica_pool._machine_shares(on_cpu, 2)[1] == [{}, {}]
