"""How many KV blocks fit, and what to change when they do not."""

from collections import Counter
from collections.abc import Sequence

from tdpipe.core.block_pool import blocks_for
from tdpipe.core.errors import CapacityError
from tdpipe.core.model_shape import ModelShape
from tdpipe.core.tensor_shard import rank_kv_values


def block_bytes(
    shape: ModelShape, num_layers: int, block_size: int, value_bytes: int, num_ranks: int = 1
) -> int:
    """Bytes of a KV block on a stage of num_layers layers, or on its rank with the most heads."""
    return num_layers * block_size * rank_kv_values(shape, num_ranks) * value_bytes


def num_kv_blocks(
    shape: ModelShape,
    layers: Sequence[int],
    kv_bytes_per_stage: Sequence[int],
    block_size: int,
    value_bytes: int,
    num_ranks: int = 1,
) -> int:
    """Blocks of the smallest stage; every stage holds the same block table for its layers.

    Args:
        kv_bytes_per_stage: of each of a stage's `num_ranks` ranks.
    """
    return min(
        kv_bytes // block_bytes(shape, count, block_size, value_bytes, num_ranks)
        for count, kv_bytes in zip(layers, kv_bytes_per_stage, strict=True)
    )


def shared_kv_bytes(
    devices: Sequence[str], layers: Sequence[int], free_bytes: Sequence[int]
) -> list[int]:
    """What each process may take of a device that several share: its part by layers.

    All stages have the same number of KV blocks, and a block has a part for each layer.

    Args:
        devices, layers, free_bytes: of each process: where it is, layers that it holds, and what it
            reported to be free for all on its device.
    """
    held: Counter[str] = Counter()
    left: dict[str, int] = {}
    for device, count, free in zip(devices, layers, free_bytes, strict=True):
        held[device] += count
        left[device] = min(free, left.get(device, free))
    return [
        left[device] * count // held[device] for device, count in zip(devices, layers, strict=True)
    ]


def fitting_model_len(
    num_blocks: int,
    block_size: int,
    wanted: int | None,
    model_limit: int,
    kv_cache_memory: int | str | None = None,
) -> int:
    """The context limit: as asked for, else as much of the model's limit as the cache holds.

    Args:
        kv_cache_memory: the setting that the blocks come from, for the error.

    Raises:
        CapacityError: the cache does not hold one request of the length asked for.
    """
    held = num_blocks * block_size
    needed = blocks_for(wanted, block_size) if wanted is not None else 2
    if num_blocks < needed:
        fix = (
            f"it holds {held} tokens in {num_blocks} blocks of {block_size}, and one request of "
            f"max_model_len={wanted or 'any'} needs {needed} blocks: give more KV memory or "
            "lower max_model_len"
        )
        raise CapacityError("kv_cache_memory", kv_cache_memory, fix)
    return wanted if wanted is not None else min(model_limit, held)
