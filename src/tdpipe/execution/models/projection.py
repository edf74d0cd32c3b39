"""A matrix product with weights in the layout that the device multiplies fastest.

On CPU in float32, oneDNN multiplies weights that were reordered into its blocked layout faster than
torch multiplies plain ones, most of all for few rows.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

# oneDNN chooses the layout for a number of rows; that of a decode batch serves all others as well.
TYPICAL_ROWS = 32


class Projection(nn.Module):
    """y = x @ weight.T + bias, weight [out, in]; `pack` reorders it once it is loaded."""

    def __init__(self, in_size: int, out_size: int, bias: bool = False) -> None:
        super().__init__()
        self.weight: Tensor = nn.Parameter(torch.empty(out_size, in_size))
        self.bias = nn.Parameter(torch.empty(out_size)) if bias else None
        self._packed: Tensor | None = None

    def pack(self) -> None:
        """Reorder the weight where that helps; the plain one is dropped."""
        weight = self.weight
        if weight.device.type != "cpu" or weight.dtype != torch.float32 or not _can_pack():
            return
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), TYPICAL_ROWS)
        del self.weight

    def forward(self, x: Tensor) -> Tensor:
        """[rows, in] -> [rows, out]"""
        if self._packed is None:
            return functional.linear(x, self.weight, self.bias)
        # "none" is the fused operation after the product, with its arguments behind.
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._packed, self.bias, "none", [], ""
        )
        return product


def _can_pack() -> bool:
    built_in = bool(torch._C._has_mkldnn)
    return built_in and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
