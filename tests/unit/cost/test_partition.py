"""Layers per stage: balanced by time, projection counted in, user's own checked."""

from dataclasses import replace

import pytest

from factories import SMALL_MODEL
from tdpipe.core.errors import CapacityError, ConfigError
from tdpipe.core.model_shape import ModelShape
from tdpipe.cost.cost_model import decode_load, prefill_load
from tdpipe.cost.hardware_catalogue import CPU_CORE, CPU_LINK
from tdpipe.cost.memory_plan import block_bytes, fitting_model_len, num_kv_blocks
from tdpipe.cost.partition import balanced_partition, checked_partition, spread_layers
from tdpipe.cost.roofline_cost import RooflineCost


@pytest.mark.parametrize("num_stages", [1, 2, 3, 4, 30])
def test_all_layers_are_used(num_stages):
    layers = balanced_partition(SMALL_MODEL, num_stages, CPU_CORE, 4)
    assert len(layers) == num_stages and sum(layers) == 30 and min(layers) >= 1


def test_last_stage_gets_fewer_layers_when_the_vocabulary_is_large():
    layers = balanced_partition(SMALL_MODEL, 2, CPU_CORE, 4)
    small_vocab = ModelShape(30, 576, 1536, 9, 3, 64, 512, True)
    assert layers[1] < layers[0]
    assert balanced_partition(small_vocab, 2, CPU_CORE, 4) == (15, 15)


def test_the_choice_is_the_best_of_all_two_stage_splits():
    """Brute force over every split, with the objective written out."""

    def run_time(split):
        cost = RooflineCost(SMALL_MODEL, split, CPU_CORE, CPU_LINK, 4)
        prefill = max(cost.stage_time_s(stage, prefill_load(0, 192)) for stage in (0, 1))
        decode = max(cost.stage_time_s(stage, decode_load(64, 64 * 288)) for stage in (0, 1))
        return prefill + 192 / 64 * decode

    best = min(run_time((30 - last, last)) for last in range(1, 30))
    assert run_time(balanced_partition(SMALL_MODEL, 2, CPU_CORE, 4)) == pytest.approx(best)


def test_the_choice_for_mixed_batches_is_the_best_of_all_two_stage_splits():
    rates = replace(CPU_CORE, vocab_flops=70e9)  # slow enough that the phases want different splits

    def run_time(split):
        cost = RooflineCost(SMALL_MODEL, split, rates, CPU_LINK, 4)
        prefill, decode = prefill_load(0, 192), decode_load(64, 64 * 288)
        return max(cost.stage_time_s(i, prefill) + 3 * cost.stage_time_s(i, decode) for i in (0, 1))

    best = min(run_time((30 - last, last)) for last in range(1, 30))
    mixed = balanced_partition(SMALL_MODEL, 2, rates, 4, mixes_phases=True)
    assert run_time(mixed) == pytest.approx(best)
    assert mixed != balanced_partition(SMALL_MODEL, 2, rates, 4)


def test_remainders_go_to_the_rear_but_not_to_the_last():
    assert spread_layers(30, 4, 6) == (8, 8, 8, 6)
    assert spread_layers(31, 4, 6) == (8, 8, 9, 6)
    assert spread_layers(5, 1, 5) == (5,)


@pytest.mark.parametrize("layers", [(30,), (15, 14), (30, 0), (31, -1)])
def test_bad_partitions(layers):
    with pytest.raises(ConfigError) as caught:
        checked_partition(layers, 30, 2)
    assert caught.value.field == "partition"


def test_more_stages_than_layers():
    with pytest.raises(ConfigError, match="pipeline_parallel_size=31: use 1 to 30 stages"):
        balanced_partition(SMALL_MODEL, 31, CPU_CORE, 4)


def test_the_smallest_stage_sets_the_blocks():
    one = block_bytes(SMALL_MODEL, 10, 16, 4)
    assert one == 10 * 16 * 2 * 3 * 64 * 4
    assert num_kv_blocks(SMALL_MODEL, (20, 10), (2 * one * 7, one * 9), 16, 4) == 7


def test_context_limit_follows_the_cache():
    assert fitting_model_len(100, 16, None, 8192) == 1600
    assert fitting_model_len(1000, 16, None, 8192) == 8192
    assert fitting_model_len(100, 16, 1600, 8192) == 1600
    with pytest.raises(CapacityError, match="max_model_len=1601 needs 101 blocks"):
        fitting_model_len(100, 16, 1601, 8192)
    with pytest.raises(CapacityError, match="kv_cache_memory=None"):
        fitting_model_len(1, 16, None, 8192)
    with pytest.raises(CapacityError, match=r"kv_cache_memory='9KiB'.*it holds 16 tokens"):
        fitting_model_len(1, 16, None, 8192, "9KiB")
