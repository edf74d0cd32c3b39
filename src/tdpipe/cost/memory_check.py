"""Whether weights and KV cache fit the memory at hand, before anything is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass

from tdpipe.core.errors import CapacityError
from tdpipe.core.model_shape import ModelShape

# Resident memory of a stage's process beside weights and cache (results/stage_memory.json).
PROCESS_BYTES = 400 << 20
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory that several stages share: a machine's, or one card's for the stage on it."""

    name: str
    available_bytes: int
    stages: tuple[int, ...]


def stage_weight_bytes(
    shape: ModelShape, layers: Sequence[int], layer_value_bytes: int, value_bytes: int
) -> list[int]:
    """Bytes of each stage's weights; the first holds the embedding, the last the projection.

    Args:
        layer_value_bytes: of a weight in the layers, less than value_bytes where quantized.
    """
    last, vocab = len(layers) - 1, shape.vocab_params * value_bytes
    return [
        count * shape.layer_params * layer_value_bytes + ((stage == 0) + (stage == last)) * vocab
        for stage, count in enumerate(layers)
    ]


def check_memory(
    weight_bytes: Sequence[int], kv_bytes: int, memories: Sequence[Memory], dtype: str
) -> None:
    """Refuse what cannot fit.

    Args:
        weight_bytes: of each stage.
        kv_bytes: of each stage's KV cache; 0 where the cache takes what is left.

    Raises:
        CapacityError: with what is needed, what there is, and what to change.
    """
    for memory in memories:
        count = len(memory.stages)
        weights = sum(weight_bytes[stage] for stage in memory.stages)
        left = memory.available_bytes - weights - count * PROCESS_BYTES
        if left >= count * max(kv_bytes, 1):
            continue
        needs = (
            f"{_mib(weights)} for weights in {dtype}, {_mib(count * PROCESS_BYTES)} for processes"
        )
        if left > 0:
            needs += f", {_mib(count * kv_bytes)} for KV cache"
            fix = f"lower kv_cache_memory to {_mib(left // count)}, or use more stages or devices"
        else:
            fix = "use a smaller dtype, quantization, a smaller model, or more memory or devices"
        shown = f"{_mib(memory.available_bytes)} free on {memory.name}"
        raise CapacityError("memory", shown, f"{count} stages there need {needs}: {fix}")


def _mib(num_bytes: int) -> str:
    return f"{num_bytes // MIB} MiB"
