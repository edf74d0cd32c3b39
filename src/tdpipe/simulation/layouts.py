"""The ways to lay a model over devices: P pipeline stages of T tensor-parallel ranks each."""

from collections.abc import Iterator, Sequence

from tdpipe.core.errors import ConfigError
from tdpipe.core.model_shape import ModelShape
from tdpipe.cost.hardware_catalogue import Device
from tdpipe.cost.placement import Placement, place
from tdpipe.policies.scheduler_registry import TENSOR_PARALLEL

RANKS = (1, 2, 4, 8)
MOST_DEVICES = 64


def layouts(shape: ModelShape, device: Device, num_devices: int) -> Iterator[Placement]:
    """Every P stages x T devices on at most num_devices, whether or not they fit the memory."""
    for ranks in RANKS:
        if shape.num_heads % ranks == 0:
            for num_stages in range(1, min(num_devices // ranks, shape.num_layers) + 1):
                yield place(shape, device, num_stages, ranks)


def layout_name(placement: Placement) -> str:
    """Such as PP4, TP4 or PP2xTP2."""
    num_stages, ranks = len(placement.layers), placement.tensor_parallel
    if num_stages == 1:
        return f"TP{ranks}"
    return f"PP{num_stages}" if ranks == 1 else f"PP{num_stages}xTP{ranks}"


def schedulers_for(placement: Placement, names: Sequence[str]) -> list[str]:
    """Those of the schedulers that the layout can have, each kind of batching once."""
    if len(placement.layers) > 1:
        return [name for name in names if name not in TENSOR_PARALLEL]
    twins = [TENSOR_PARALLEL[name] for name in names if name in TENSOR_PARALLEL]
    return [name for name in names if name not in twins]


def check_num_devices(num_devices: int) -> None:
    """Refuse a number of devices that cannot be planned for.

    Raises:
        ConfigError: it is not between 1 and MOST_DEVICES.
    """
    if not 1 <= num_devices <= MOST_DEVICES:
        raise ConfigError("num_gpus", num_devices, f"use 1 to {MOST_DEVICES}")
