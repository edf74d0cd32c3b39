"""States of prompts at several depths of the served model: what a length head may learn from."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Depths that are tried, in eighths of the layers.
EIGHTHS = (4, 5, 6, 7, 8)


def head_depths(num_layers: int) -> tuple[int, ...]:
    """Layers before the states that a head may read; rising, 1 to num_layers."""
    return tuple(sorted({max(1, round(num_layers * eighths / 8)) for eighths in EIGHTHS}))


@dataclass(frozen=True, slots=True)
class PromptStates:
    """States at the prompts' last tokens.

    Attributes:
        depths: layers before the states.
        values: [prompts, depths, hidden].
    """

    depths: tuple[int, ...]
    values: npt.NDArray[np.float32]

    def at(self, depth: int) -> npt.NDArray[np.float32]:
        """The states [prompts, hidden] of one depth."""
        return self.values[:, self.depths.index(depth)]

    def part(self, prompts: slice) -> "PromptStates":
        """Those of some of the prompts."""
        return PromptStates(self.depths, self.values[prompts])
