"""How many layers each stage gets, by time, with the vocabulary projection counted in.

The last stage also projects to the vocabulary, so it gets fewer layers. A temporally disaggregated
run is as long as its prefill phases at the pace of their slowest stage plus its decode phases at
the pace of theirs, so that sum is what the split minimises. Where batches mix both, what a stage
is short of in one it makes up in the other, and the slowest stage's sum counts.
"""

from tdpipe.core.errors import ConfigError
from tdpipe.core.model_shape import ModelShape
from tdpipe.cost.collectives import Link
from tdpipe.cost.cost_model import decode_load, prefill_load, slowest_stage_time_s
from tdpipe.cost.roofline_cost import DeviceRates, RooflineCost

# The load that the split is made for: prompts and outputs of the same mean length.
TYPICAL_PROMPT_TOKENS = 192
TYPICAL_DECODE = decode_load(64, 64 * 288)
TYPICAL_OUTPUT_TOKENS = 192
# Transfers are the same whatever the split.
_NO_LINK = Link(1e15, 0.0, 1e15)


def spread_layers(num_layers: int, num_stages: int, last: int) -> tuple[int, ...]:
    """`last` layers for the last stage, the rest as even as possible, remainders to the rear."""
    if num_stages == 1:
        return (num_layers,)
    share, extra = divmod(num_layers - last, num_stages - 1)
    front = [share + (stage >= num_stages - 1 - extra) for stage in range(num_stages - 1)]
    return (*front, last)


def balanced_partition(
    shape: ModelShape,
    num_stages: int,
    rates: DeviceRates,
    value_bytes: int,
    tensor_parallel: int = 1,
    *,
    mixes_phases: bool = False,
    kv_value_bytes: int | None = None,
) -> tuple[int, ...]:
    """Layers per stage with the least estimated run time for the typical load.

    Args:
        mixes_phases: whether the scheduler's batches hold prefill and decode together.
        kv_value_bytes: as in RooflineCost.

    Raises:
        ConfigError: there are fewer layers than stages.
    """
    if not 1 <= num_stages <= shape.num_layers:
        fix = f"use 1 to {shape.num_layers} stages (the model's layers)"
        raise ConfigError("pipeline_parallel_size", num_stages, fix)
    most = shape.num_layers - (num_stages - 1)
    splits = [spread_layers(shape.num_layers, num_stages, last) for last in range(most, 0, -1)]
    prefill = prefill_load(0, TYPICAL_PROMPT_TOKENS)

    def run_time_s(layers: tuple[int, ...]) -> float:
        cost = RooflineCost(
            shape, layers, rates, _NO_LINK, value_bytes, tensor_parallel, kv_value_bytes
        )
        steps = TYPICAL_OUTPUT_TOKENS / TYPICAL_DECODE.decode_sequences  # for each request
        if not mixes_phases:
            prefill_s = slowest_stage_time_s(cost, prefill)
            return prefill_s + steps * slowest_stage_time_s(cost, TYPICAL_DECODE)
        return max(
            cost.stage_time_s(stage, prefill) + steps * cost.stage_time_s(stage, TYPICAL_DECODE)
            for stage in range(num_stages)
        )

    return min(splits, key=run_time_s)


def checked_partition(layers: tuple[int, ...], num_layers: int, num_stages: int) -> tuple[int, ...]:
    """A partition given by the user.

    Raises:
        ConfigError: wrong number of stages, an empty stage, or a wrong sum of layers.
    """
    shown = ",".join(map(str, layers))
    if len(layers) != num_stages:
        raise ConfigError("partition", shown, f"give {num_stages} numbers, one per stage")
    if any(count < 1 for count in layers):
        raise ConfigError("partition", shown, "give every stage at least one layer")
    if sum(layers) != num_layers:
        fix = f"make the numbers add up to the model's {num_layers} layers"
        raise ConfigError("partition", shown, fix)
    return layers
