"""How many KV blocks fit, and what to change when they do not."""

from collections.abc import Sequence

from tdpipe.core.block_pool import blocks_for
from tdpipe.core.errors import CapacityError
from tdpipe.core.model_shape import ModelShape


def block_bytes(shape: ModelShape, num_layers: int, block_size: int, value_bytes: int) -> int:
    """Bytes that one KV block takes on a stage of num_layers layers."""
    return num_layers * block_size * shape.kv_values_per_token * value_bytes


def num_kv_blocks(
    shape: ModelShape,
    layers: Sequence[int],
    kv_bytes_per_stage: Sequence[int],
    block_size: int,
    value_bytes: int,
) -> int:
    """Blocks of the smallest stage; every stage holds the same block table for its layers."""
    return min(
        kv_bytes // block_bytes(shape, count, block_size, value_bytes)
        for count, kv_bytes in zip(layers, kv_bytes_per_stage, strict=True)
    )


def fitting_model_len(
    num_blocks: int, block_size: int, wanted: int | None, model_limit: int
) -> int:
    """The context limit: as asked for, else as much of the model's limit as the cache holds.

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
        raise CapacityError("kv_cache_memory", f"{held} tokens", fix)
    return wanted if wanted is not None else min(model_limit, held)
