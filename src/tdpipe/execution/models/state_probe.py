"""Hidden states taken between two layers, of a few tokens of a batch: what length heads read."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(slots=True)
class StateProbe:
    """Filled by the forward pass of the stage that computes the layer.

    Attributes:
        depth: layers of the whole model before the state, 1 or more.
        rows: [rows], the tokens of the batch to read.
        states: [rows, hidden] in float32, scaled to a mean square of 1: later layers add to the
            residual, so that its size says more of the depth than of the text.
    """

    depth: int
    rows: Tensor
    states: Tensor = field(default_factory=lambda: torch.empty(0))

    def see(self, hidden: Tensor, added: Tensor) -> None:
        """Take the states; `added` [tokens, hidden] is still to be added to `hidden`."""
        chosen = (hidden[self.rows] + added[self.rows]).float()
        mean_squares = chosen.square().mean(dim=-1, keepdim=True)
        self.states = chosen * torch.rsqrt(mean_squares + torch.finfo(torch.float32).tiny)


def see_after(probes: Sequence[StateProbe], depth: int, hidden: Tensor, added: Tensor) -> None:
    """Fill the probes of that depth."""
    for probe in probes:
        if probe.depth == depth:
            probe.see(hidden, added)
