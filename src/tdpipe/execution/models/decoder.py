"""One decoder for Llama, Mistral, Qwen2 and Qwen3: pre-norm attention and gated MLP.

A stage holds the layers first_layer .. end_layer - 1; the first stage also embeds, the last also
normalises and projects. Where ranks share the stage, each holds its shard of every layer, and what
two projections of a layer give is summed over the ranks. Knows tensors and a cache, not batches,
plans or links between stages.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from tdpipe.core.tensor_shard import tensor_shards
from tdpipe.execution.attention.attention_backend import AttentionBackend, AttentionMetadata
from tdpipe.execution.kv_cache import KVCache
from tdpipe.execution.models.dummy_weights import DummyTensors
from tdpipe.execution.models.model_config import ModelConfig
from tdpipe.execution.models.projection import Projection
from tdpipe.execution.models.rope import apply_rope, rope_tables
from tdpipe.execution.models.stage_weights import CheckpointFiles, StageWeights, TensorSource
from tdpipe.execution.models.state_probe import StateProbe, see_after
from tdpipe.execution.tensor_ranks import TensorRanks

if TYPE_CHECKING:
    from tdpipe.execution.models.core_layer import CoreLayer

Rotation = tuple[Tensor, Tensor]


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension, in float32 (arXiv:1910.07467)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """The norm of x; or of the sum of both, [rows, size], which x becomes."""
        if added is not None:
            x += added
        normed = functional.rms_norm(x.float(), (x.shape[-1],), eps=self.eps)
        return self.weight * normed.to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention with one fused projection for queries, keys and values."""

    def __init__(self, config: ModelConfig, window: int | None, ranks: TensorRanks) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = ranks.shard.heads.size, ranks.shard.kv_heads.size
        self.head_dim, self.window, self._ranks = config.head_dim, window, ranks
        num_all = self.num_heads + 2 * self.num_kv_heads
        self.qkv = Projection(config.hidden_size, num_all * self.head_dim, config.attention_bias)
        query_size = self.num_heads * self.head_dim
        bias = config.output_bias and ranks.is_first  # it is added once
        self.out = Projection(query_size, config.hidden_size, bias)
        self.query_norm: RMSNorm | None = None
        self.key_norm: RMSNorm | None = None
        if config.query_key_norm:
            self.query_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
            self.key_norm = RMSNorm(self.head_dim, config.rms_norm_eps)

    def forward(
        self,
        x: Tensor,  # [tokens, hidden]
        rotation: Rotation,
        layer: int,
        kv_cache: KVCache,
        attention: AttentionBackend,
        meta: AttentionMetadata,
    ) -> Tensor:
        heads: Tensor = self.qkv(x).unflatten(-1, (-1, self.head_dim))
        num_rotated = self.num_heads + self.num_kv_heads
        if self.query_norm is not None and self.key_norm is not None:
            query, key = heads[:, : self.num_heads], heads[:, self.num_heads : num_rotated]
            query.copy_(self.query_norm(query))
            key.copy_(self.key_norm(key))
        rotated, value = apply_rope(heads, num_rotated, *rotation), heads[:, num_rotated:]
        query, key = rotated[:, : self.num_heads], rotated[:, self.num_heads :]
        mixed = attention.forward(layer, query, key, value, kv_cache, meta, self.window)
        return self._ranks.sum(self.out(mixed.flatten(-2)))


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x)), gate and up in one fused projection (arXiv:2002.05202)."""

    def __init__(self, config: ModelConfig, ranks: TensorRanks) -> None:
        super().__init__()
        hidden, inner, bias = config.hidden_size, ranks.shard.columns.size, config.mlp_bias
        self.gate_up = Projection(hidden, 2 * inner, bias)
        self.down = Projection(inner, hidden, bias and ranks.is_first)
        self._ranks = ranks

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self._ranks.sum(self.down(functional.silu(gate).mul_(up)))


class DecoderLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); the last sum is left to what comes next.

    A norm then reads its input once, for the sum and for itself.
    """

    def __init__(self, config: ModelConfig, window: int | None, ranks: TensorRanks) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = Attention(config, window, ranks)
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config, ranks)

    def forward(
        self,
        x: Tensor,  # [tokens, hidden], changed in place
        added: Tensor | None,  # what is still to be added to it, [tokens, hidden]
        rotation: Rotation,
        layer: int,
        kv_cache: KVCache,
        attention: AttentionBackend,
        meta: AttentionMetadata,
    ) -> Tensor:
        """What is to be added to x, [tokens, hidden]."""
        normed = self.attention_norm(x, added)
        added = self.attention(normed, rotation, layer, kv_cache, attention, meta)
        out: Tensor = self.mlp(self.mlp_norm(x, added))
        return out


class StageModel(nn.Module):
    """The part of a model that one stage holds.

    Args:
        first_layer, end_layer: the stage's layers, end exclusive.
        is_first, is_last: whether it embeds, whether it projects to the vocabulary.
        max_model_len: positions to prepare rotations for; None means the model's limit.
        quantization: "int8" rounds the weights of all projections; float32 on CPU only.
        ranks: the processes that share the stage; None for one alone.
    """

    def __init__(
        self,
        config: ModelConfig,
        first_layer: int,
        end_layer: int,
        *,
        is_first: bool,
        is_last: bool,
        dtype: torch.dtype,
        device: torch.device,
        max_model_len: int | None = None,
        quantization: str | None = None,
        ranks: TensorRanks | None = None,
    ) -> None:
        super().__init__()
        self._ranks = ranks = ranks or TensorRanks(tensor_shards(config.shape(), 1))
        self._quantization = quantization
        self.config, self.first_layer, self.end_layer = config, first_layer, end_layer
        self.is_first, self.is_last = is_first, is_last
        with torch.device("meta"):
            windows = config.windows[first_layer:end_layer]
            self.layers = nn.ModuleList(DecoderLayer(config, window, ranks) for window in windows)
            self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps) if is_last else None
        self.to(dtype)
        with torch.device("meta"):
            rows = ranks.shard.vocab.size
            self.projection = Projection(config.hidden_size, rows) if is_last else None
        # [rows of the vocabulary, hidden]; None too where the projection gives the same rows.
        self.embedding: Tensor | None = None
        self.core_layers: list[CoreLayer] = []  # the same layers, where kernels compute them
        self.weight_bytes = 0
        self.dtype, self._device = dtype, device
        cos, sin = rope_tables(config, max_model_len or config.max_position_embeddings)
        self._cos = cos.to(device=device, dtype=dtype)
        self._sin = sin.to(device=device, dtype=dtype)

    def load(self, folder: Path, load_format: str = "auto") -> None:
        """Read this stage's weights, and only those, from a Hugging Face folder.

        Args:
            load_format: "dummy" makes random weights instead; nothing is read then.

        Raises:
            ConfigError: a file or tensor is missing or of the wrong shape.
        """
        shard = self._ranks.shard
        source: TensorSource
        if load_format == "dummy":
            source = DummyTensors(self.dtype, self._device)
        else:
            source = CheckpointFiles(folder)
        with StageWeights(source, self.dtype, self._device) as weights:
            for offset, layer in enumerate(self._own_layers()):
                weights.fill(layer, self.first_layer + offset, shard)
                self._settle(layer)
                weights.close_files()
            size = self.config.hidden_size
            tied = self.config.tie_word_embeddings
            if self.is_first:
                self.embedding = weights.vocab("model.embed_tokens.weight", size, shard)
                self.weight_bytes += self.embedding.numel() * self.embedding.element_size()
            if self.projection is not None and self.norm is not None:
                name = "model.embed_tokens.weight" if tied else "lm_head.weight"
                shared = self.embedding if tied else None
                matrix = weights.vocab(name, size, shard) if shared is None else shared
                weights.close_files()
                self.projection.weight = _frozen(matrix)
                self._settle(self.projection, is_shared=shared is not None)
                if shared is not None and self.projection.can_embed:
                    self.embedding = None  # one of the two forms is enough
                self.norm.weight = _frozen(weights.tensor("model.norm.weight", (size,)))
                self._settle(self.norm)
        self.requires_grad_(False)
        if self.dtype == torch.float32 and self._device.type == "cpu":
            # Imported here: kernels are loaded where they are used.
            from tdpipe.execution.models.core_layer import CoreLayer

            self.core_layers = [CoreLayer(layer, self._ranks) for layer in self._own_layers()]

    def _own_layers(self) -> list[DecoderLayer]:
        return [layer for layer in self.layers if isinstance(layer, DecoderLayer)]

    def _settle(self, part: nn.Module, is_shared: bool = False) -> None:
        """Bring a part's weights into the form that it computes with, and count their bytes.

        Part by part, so that no more than one is held in two forms at a time.
        """
        for module in part.modules():
            held = [] if is_shared else list(module.parameters(recurse=False))
            if isinstance(module, Projection) and self._quantization is not None:
                held = [one for one in held if one is not module.weight]
                self.weight_bytes += module.quantize()
            elif isinstance(module, Projection):
                module.pack()
            self.weight_bytes += sum(one.numel() * one.element_size() for one in held)

    def forward(
        self,
        given: Tensor,
        positions: Tensor,  # [tokens]
        kv_cache: KVCache,
        attention: AttentionBackend,
        meta: AttentionMetadata,
        probes: Sequence[StateProbe] = (),
    ) -> Tensor:
        """Hidden states [tokens, hidden] after this stage's layers.

        `given` is token ids [tokens] on the first stage, elsewhere hidden states [tokens, hidden],
        which are overwritten. Probes of depths that this stage computes are filled.
        """
        x = given
        if self.is_first:
            x = self._embed(given)
        rotation = (self._cos[positions], self._sin[positions])
        added: Tensor | None = None
        layers: Sequence[Callable[..., Tensor]] = self._own_layers()
        if attention.on_core:
            layers = self.core_layers
        for index, layer in enumerate(layers):
            added = layer(x, added, rotation, index, kv_cache, attention, meta)
            if probes:
                see_after(probes, self.first_layer + index + 1, x, added)
        return x if added is None else x.add_(added)

    def _embed(self, token_ids: Tensor) -> Tensor:
        """[tokens, hidden]: each rank looks up what is in its rows of the vocabulary."""
        if self._ranks.size == 1:
            return self._embedding_rows(token_ids)
        vocab = self._ranks.shard.vocab
        rows = token_ids - vocab.start
        is_own = (rows >= 0) & (rows < vocab.size)
        return self._ranks.sum(self._embedding_rows(rows * is_own) * is_own[:, None])

    def _embedding_rows(self, rows: Tensor) -> Tensor:
        if self.embedding is not None:
            return functional.embedding(rows, self.embedding)
        assert self.projection is not None
        return self.projection.weight_rows(rows)

    def project(self, hidden: Tensor) -> Tensor | None:
        """Logits [rows, vocab] in float32 of hidden states [rows, hidden]; last stage only.

        None on all but the first of the ranks that share it.
        """
        assert self.projection is not None and self.norm is not None
        logits = self._ranks.gather_vocab(self.projection(self.norm(hidden)))
        return logits.float() if logits is not None else None


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
