"""Stages that share a device: where they are put, what memory they have, what a profile is of."""

import pytest

from tdpipe.config.engine_config import EngineConfig
from tdpipe.core.errors import CapacityError
from tdpipe.cost.memory_check import check_memory
from tdpipe.execution.models.model_source import resolve_model
from tdpipe.frontend.pipeline_setup import card_memories, resolve_setup, setup_key
from tdpipe.frontend.stage_profile_cache import profile_path

MODEL = "smollm2-135m-instruct"
GIB = 1 << 30


def seats(**settings):
    source = resolve_model(MODEL)
    setup = resolve_setup(EngineConfig(MODEL, **settings), source)
    site = setup._launcher().open(None)
    site.close()
    return site.seats


def test_seats_say_who_shares_and_how_hidden_states_travel():
    shared = seats(pipeline_parallel_size=2, stage_devices="cpu,cpu")
    assert [seat.device for seat in shared] == ["cpu", "cpu"]
    assert all(seat.host_staging and seat.ranks_on_device == 2 for seat in shared)
    assert not any(seat.host_staging for seat in seats(pipeline_parallel_size=2, device="cpu"))


def test_stages_on_one_card_must_fit_it_together():
    weights = [3 * GIB, 3 * GIB]
    apart = card_memories(["cuda:0", "cuda:1"], [5 * GIB, 5 * GIB])
    check_memory(weights, 0, apart, "bfloat16")
    together = card_memories(["cuda:1", "cuda:1"], [5 * GIB, 5 * GIB])
    assert [memory.name for memory in together] == ["cuda:1"]
    with pytest.raises(CapacityError, match="free on cuda:1"):
        check_memory(weights, 0, together, "bfloat16")


def test_a_profile_of_shared_devices_is_not_one_of_devices_of_their_own():
    source, layers = resolve_model(MODEL), (16, 14)

    def path(**settings):
        config = EngineConfig(MODEL, pipeline_parallel_size=2, **settings)
        return profile_path(setup_key(config, source, "float32", "cpu", layers))

    assert path() == path(device="cpu") != path(stage_devices="cpu,cpu")
