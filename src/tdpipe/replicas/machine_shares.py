"""What of the machine each replica gets: a group of cores, or some of the cards."""

import os
from collections.abc import Sequence
from pathlib import Path

from tdpipe.core.errors import ConfigError

DRIVER_NODES = ("/dev/nvidiactl", "/dev/dxg")


def core_groups(usable: Sequence[int], replicas: int, needed: int) -> list[tuple[int, ...]]:
    """Cores for each replica: an equal part where that is enough, else shared in turn.

    Args:
        usable: cores of this process.
        needed: cores that the processes of one replica take.
    """
    cores = sorted(usable)
    if len(cores) >= replicas * needed:
        ends = [len(cores) * i // replicas for i in range(replicas + 1)]
        return [tuple(cores[ends[i] : ends[i + 1]]) for i in range(replicas)]
    turns = [cores[index % len(cores)] for index in range(replicas * needed)]
    return [
        tuple(sorted(set(turns[i * needed : (i + 1) * needed]))) for i in range(replicas)
    ]  # fmt: skip


def card_groups(
    cards: Sequence[str], replicas: int, needed: int, device: str
) -> list[tuple[str, ...]] | None:
    """Cards for each replica; None for the CPU, which `auto` takes where one replica finds none.

    Args:
        cards: names of the cards that can be used, as in CUDA_VISIBLE_DEVICES.
        needed: cards of one replica.
        device: as in EngineConfig.

    Raises:
        ConfigError: there are not enough cards.
    """
    if device == "cpu" or (device == "auto" and len(cards) < needed):
        return None
    if len(cards) < replicas * needed:
        fix = f"there are {len(cards)} CUDA devices and each replica takes {needed}; use "
        most = len(cards) // needed
        fix += f"{most} at most, or device cpu" if most else "device cpu"
        raise ConfigError("replicas", replicas, fix)
    return [tuple(cards[i * needed : (i + 1) * needed]) for i in range(replicas)]


def visible_cards(device: str) -> list[str]:
    """Names of the CUDA devices that this process may use.

    torch is imported only where there may be a card: it takes seconds.
    """
    if device == "cpu" or not any(Path(node).exists() for node in DRIVER_NODES):
        return []
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = named.split(",") if named is not None else [str(index) for index in range(count)]
    return [name.strip() for name in names[:count]]
