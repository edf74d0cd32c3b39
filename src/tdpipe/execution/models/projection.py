"""A matrix product with weights in the layout that the device multiplies fastest."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tdpipe.execution.models.packed_weights import FloatPanels, PackedWeights, pack, quantize
from tdpipe.execution.row_kernels import FloatArray


class Projection(nn.Module):
    """y = x @ weight.T + bias, weight [out, in]; `pack` reorders it once it is loaded."""

    def __init__(self, in_size: int, out_size: int, bias: bool = False) -> None:
        super().__init__()
        self.weight: Tensor = nn.Parameter(torch.empty(out_size, in_size))
        self.bias = nn.Parameter(torch.empty(out_size)) if bias else None
        self._packed: PackedWeights | None = None

    def pack(self) -> None:
        """Reorder the weight where that helps; the plain one is dropped."""
        self._packed = pack(self.weight.detach(), self._plain_bias())
        if self._packed is not None:
            del self.weight

    def quantize(self) -> int:
        """Round a float32 weight on CPU to int8, a scale for each output; returns its bytes."""
        weight = self.weight.detach()
        self._packed = quantize(weight, self._plain_bias())
        del self.weight
        return weight.numel() + len(weight) * weight.element_size()

    @property
    def can_embed(self) -> bool:
        """Whether `weight_rows` gives the weights as they were loaded, without a copy of them."""
        return isinstance(self._packed, FloatPanels)

    def weight_rows(self, outputs: Tensor) -> Tensor:
        """The weights [n, in] of outputs [n]."""
        assert isinstance(self._packed, FloatPanels)
        return self._packed.weight_rows(outputs)

    def _plain_bias(self) -> Tensor | None:
        return None if self.bias is None else self.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """[rows, in] -> [rows, out]"""
        if self._packed is not None:
            return torch.from_numpy(self._packed.multiply(x.contiguous().numpy()))
        return functional.linear(x, self.weight, self.bias)

    def multiply(self, x: FloatArray) -> FloatArray:
        """The same of a contiguous array, on CPU in float32."""
        if self._packed is not None:
            return self._packed.multiply(x)
        return functional.linear(torch.from_numpy(x), self.weight, self.bias).numpy()
