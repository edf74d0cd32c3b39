"""What cannot fit is refused with numbers, before anything is loaded."""

import pytest

from factories import SMALL_MODEL
from tdpipe.core.errors import CapacityError
from tdpipe.cost.memory_check import MIB, PROCESS_BYTES, Memory, check_memory, stage_weight_bytes

WEIGHTS = [300 * MIB, 200 * MIB]
NEEDED = sum(WEIGHTS) + 2 * PROCESS_BYTES


def machine(free):
    return [Memory("this machine", free, (0, 1))]


def test_the_smallest_that_fits():
    check_memory(WEIGHTS, 50 * MIB, machine(NEEDED + 100 * MIB), "float32")
    with pytest.raises(CapacityError, match="lower kv_cache_memory to 49 MiB"):
        check_memory(WEIGHTS, 50 * MIB, machine(NEEDED + 99 * MIB), "float32")
    with pytest.raises(CapacityError, match=r"500 MiB for weights in float32.*smaller dtype"):
        check_memory(WEIGHTS, 0, machine(NEEDED), "float32")


def test_each_card_for_itself():
    cards = [Memory("cuda:0", 10 << 30, (0,)), Memory("cuda:1", 600 * MIB, (1,))]
    with pytest.raises(CapacityError, match=r"600 MiB free on cuda:1.*1 stages there need 200 MiB"):
        check_memory(WEIGHTS, 1 << 30, cards, "bfloat16")


def test_weights_of_stages():
    first, last = stage_weight_bytes(SMALL_MODEL, (18, 12), 4, 4)
    layer, vocab = 4 * SMALL_MODEL.layer_params, 4 * SMALL_MODEL.vocab_params
    assert (first, last) == (18 * layer + vocab, 12 * layer + vocab)
    assert stage_weight_bytes(SMALL_MODEL, (30,), 1, 4) == [30 * layer // 4 + 2 * vocab]
