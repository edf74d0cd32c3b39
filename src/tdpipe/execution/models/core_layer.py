"""A decoder layer in float32 on CPU: arrays between compiled kernels, no tensors.

A kernel on the few rows of a decode takes microseconds, as many as a tensor operation needs to
begin. Formulas, names and weights are those of execution.models.decoder.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tdpipe.execution.attention.attention_backend import AttentionBackend, AttentionMetadata
from tdpipe.execution.attention.numba_attention import NumbaAttention
from tdpipe.execution.block_kv_cache import BlockKVCache
from tdpipe.execution.kv_cache import KVCache
from tdpipe.execution.row_kernels import (
    FloatArray,
    add_rms_norm,
    rms_norm,
    rms_norm_heads,
    rotate,
    silu_multiply,
)
from tdpipe.execution.tensor_ranks import TensorRanks

if TYPE_CHECKING:
    from tdpipe.execution.models.decoder import MLP, Attention, DecoderLayer, RMSNorm, Rotation

# A core multiplies so many rows no slower than more, and what lies between the products is several
# times as wide as the hidden states: its memory is that of these rows only.
MLP_ROWS = 512


class CoreNorm:
    """RMSNorm."""

    def __init__(self, norm: "RMSNorm") -> None:
        self.weight, self.eps = norm.weight.numpy(), norm.eps

    def forward(self, x: FloatArray, added: FloatArray | None) -> FloatArray:
        """The norm of x; or of the sum of both, [rows, size], which x becomes."""
        output = np.empty_like(x)
        if added is not None:
            add_rms_norm(x, added, self.weight, self.eps, output)
        else:
            rms_norm(x, self.weight, self.eps, output)
        return output

    def of_heads(self, heads: FloatArray, first: int, end: int) -> None:
        """Normalise heads first .. end - 1 of [rows, heads, head_dim] in place."""
        rms_norm_heads(heads, first, end, self.weight, self.eps)


class CoreLayer:
    """What a DecoderLayer computes, with NumbaAttention."""

    def __init__(self, layer: "DecoderLayer", ranks: TensorRanks) -> None:
        self._ranks = ranks
        self._attention_norm = CoreNorm(layer.attention_norm)
        self._mlp_norm = CoreNorm(layer.mlp_norm)
        own: Attention = layer.attention
        self._qkv, self._out, self._window = own.qkv, own.out, own.window
        self._num_heads, self._num_rotated = own.num_heads, own.num_heads + own.num_kv_heads
        self._head_dim = own.head_dim
        self._query_norm = CoreNorm(own.query_norm) if own.query_norm is not None else None
        self._key_norm = CoreNorm(own.key_norm) if own.key_norm is not None else None
        mlp: MLP = layer.mlp
        self._gate_up, self._down = mlp.gate_up, mlp.down

    def norms(self) -> list[CoreNorm]:
        """All of its norms."""
        every = (self._attention_norm, self._mlp_norm, self._query_norm, self._key_norm)
        return [norm for norm in every if norm is not None]

    def __call__(
        self,
        x: Tensor,
        added: Tensor | None,
        rotation: "Rotation",
        layer: int,
        kv_cache: KVCache,
        attention: AttentionBackend,
        meta: AttentionMetadata,
    ) -> Tensor:
        """As DecoderLayer.forward: what is to be added to x, which is changed in place."""
        assert isinstance(attention, NumbaAttention) and isinstance(kv_cache, BlockKVCache)
        hidden = x.numpy()
        normed = self._attention_norm.forward(hidden, None if added is None else added.numpy())
        heads = self._heads(normed, rotation[0].numpy(), rotation[1].numpy())
        mixed = attention.mix(layer, heads, self._num_heads, kv_cache, meta, self._window)
        del normed, heads  # of a long prefill they are large
        own = self._sum(self._out.multiply(mixed.reshape(len(hidden), -1)))
        del mixed
        return torch.from_numpy(self._mlp(self._mlp_norm.forward(hidden, own)))

    def _heads(self, normed: FloatArray, cos: FloatArray, sin: FloatArray) -> FloatArray:
        """Queries, keys and values [tokens, heads, head_dim], the first two rotated."""
        heads = self._qkv.multiply(normed).reshape(len(normed), -1, self._head_dim)
        if self._query_norm is not None and self._key_norm is not None:
            self._query_norm.of_heads(heads, 0, self._num_heads)
            self._key_norm.of_heads(heads, self._num_heads, self._num_rotated)
        rotate(heads, self._num_rotated, cos, sin)
        return heads

    def _mlp(self, normed: FloatArray) -> FloatArray:
        if len(normed) <= MLP_ROWS:
            return self._sum(self._mlp_rows(normed))
        for start in range(0, len(normed), MLP_ROWS):
            rows = normed[start : start + MLP_ROWS]
            rows[:] = self._mlp_rows(rows)
        return self._sum(normed)

    def _mlp_rows(self, normed: FloatArray) -> FloatArray:
        gate_up = self._gate_up.multiply(normed)
        active = np.empty((len(gate_up), gate_up.shape[1] // 2), np.float32)
        silu_multiply(gate_up, active)
        return self._down.multiply(active)

    def _sum(self, x: FloatArray) -> FloatArray:
        """Over the ranks; x becomes it."""
        if self._ranks.size > 1:
            self._ranks.sum(torch.from_numpy(x))
        return x
