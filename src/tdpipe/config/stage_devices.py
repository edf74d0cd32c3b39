"""The devices of the stages' processes as a user names them: text in, one name a process out."""

import re
from collections.abc import Sequence

from tdpipe.core.errors import ConfigError

DEVICE_NAME = re.compile(r"cpu|cuda:(0|[1-9]\d{0,3})")


def parse_stage_devices(value: str | Sequence[str], num_ranks: int) -> tuple[str, ...]:
    """One device for each process, in order of ranks.

    Args:
        value: "cuda:0,cuda:0" or ["cuda:0", "cuda:0"].
        num_ranks: processes of all stages.

    Raises:
        ConfigError: a name is none, there are too few or too many, or cpu and cards are mixed.
    """
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ConfigError("stage_devices", value, "give devices by name, as cuda:0,cuda:1")
    devices = tuple(name.strip() for name in names)
    for name in devices:
        if not DEVICE_NAME.fullmatch(name):
            raise ConfigError("stage_devices", value, f"{name!r} is none: use cpu or cuda:N")
    if len(devices) != num_ranks:
        fix = f"it names {len(devices)}: give one for each of the {num_ranks} processes"
        raise ConfigError("stage_devices", value, fix)
    if "cpu" in devices and set(devices) != {"cpu"}:
        raise ConfigError("stage_devices", value, "use cpu for all of them, or cards for all")
    return devices


def cards_needed(devices: Sequence[str]) -> int:
    """How many cards a machine must have for these names; 0 for the CPU."""
    return max(int(name.partition(":")[2] or -1) + 1 for name in devices)
