"""Random weights in place of a checkpoint's: a tensor's name and shape in, its numbers out.

Each tensor is drawn from a seed of its own, by its name, so that a model has the same weights on
any partition and any number of ranks (on the same kind of device: a card draws other numbers than
a processor). Numbers are as large as those of an initialised model, so that activations keep their
size through the layers and stay finite; a card's speed depends on them through its power.
"""

import zlib

import torch
from torch import Tensor


class DummyTensors:
    """See TensorSource in stage_weights.py. Nothing is read.

    Args:
        dtype, device: of the tensors, which are made where they will be used.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype, self._device = dtype, device

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Ones for a norm; else numbers between -b and b, of variance 1 / columns."""
        held = torch.empty(shape, dtype=self._dtype, device=self._device)
        if name.endswith("norm.weight"):
            return held.fill_(1.0)
        draw = torch.Generator(self._device).manual_seed(zlib.crc32(name.encode()))
        bound = (3.0 / shape[-1]) ** 0.5
        return held.uniform_(-bound, bound, generator=draw)

    def close_files(self) -> None:
        """There are none."""
