"""The weights of one stage, from safetensors files, and fused where the decoder fuses them.

Of each matrix a rank of a stage holds its share only.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from safetensors import safe_open
from torch import Tensor, nn

from tdpipe.core.errors import ConfigError
from tdpipe.core.tensor_shard import Share, TensorShard
from tdpipe.execution.device_memory import give_back_heap
from tdpipe.execution.models.weight_files import files_of_tensors, readable

if TYPE_CHECKING:
    from tdpipe.execution.models.decoder import DecoderLayer


@dataclass(frozen=True, slots=True)
class Part:
    """A module of the checkpoint, and what of it a rank holds.

    `split_by` names the share of a TensorShard, "" for all of it; `dim` is the weight's dimension
    that is split.
    """

    name: str
    split_by: str = ""
    dim: int = 0


# Decoder module -> the checkpoint modules stacked in it, in order.
FUSED = {
    "attention.qkv": (
        Part("self_attn.q_proj", "heads"),
        Part("self_attn.k_proj", "kv_heads"),
        Part("self_attn.v_proj", "kv_heads"),
    ),
    "attention.out": (Part("self_attn.o_proj", "heads", dim=1),),
    "mlp.gate_up": (Part("mlp.gate_proj", "columns"), Part("mlp.up_proj", "columns")),
    "mlp.down": (Part("mlp.down_proj", "columns", dim=1),),
    "attention_norm": (Part("input_layernorm"),),
    "mlp_norm": (Part("post_attention_layernorm"),),
    "attention.query_norm": (Part("self_attn.q_norm"),),
    "attention.key_norm": (Part("self_attn.k_norm"),),
}
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


class TensorSource(Protocol):
    """Where a checkpoint's tensors come from: its files, or nowhere (dummy_weights.py)."""

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of that name, whole. Raises ConfigError if there is none of this shape."""
        ...

    def close_files(self) -> None:
        """Give back the memory of what was read so far."""
        ...


class CheckpointFiles:
    """Open safetensors files of a Hugging Face folder, one or several with an index.

    Raises:
        ConfigError: there are none, or a file or the index is broken.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file_of = files_of_tensors(folder)
        self._open: dict[str, Any] = {}
        self._stack = ExitStack()

    def close_files(self) -> None:
        """Give back the pages read so far; what is read next opens its file again."""
        self._open.clear()
        self._stack.close()

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor as the file has it, on CPU.

        Raises:
            ConfigError: it is missing, not of a float type, or its shape is not `shape`.
        """
        tensor = self._read(name)
        if tuple(tensor.shape) != shape:
            fix = f"its shape is {tuple(tensor.shape)}, config.json implies {shape}"
            raise ConfigError("weights", name, fix)
        return tensor

    def _read(self, name: str) -> Tensor:
        """A tensor as the file has it, checked for its type only."""
        if name not in self._file_of:
            fix = f"the checkpoint in {self._folder.name} has no such tensor"
            raise ConfigError("weights", name, fix)
        file_name = self._file_of[name]
        with readable(self._folder / file_name, name):
            if file_name not in self._open:
                opened = safe_open(self._folder / file_name, framework="pt", device="cpu")
                self._open[file_name] = self._stack.enter_context(opened)
            tensor: Tensor = self._open[file_name].get_tensor(name)
        if tensor.dtype not in FLOATS:
            fix = f"its type is {tensor.dtype}; only float32, bfloat16 and float16 are supported"
            raise ConfigError("weights", name, fix)
        return tensor


class StageWeights:
    """The tensors of a stage, fused and split as the decoder holds them.

    Args:
        dtype, device: of what is held.
    """

    def __init__(self, source: TensorSource, dtype: torch.dtype, device: torch.device) -> None:
        self._source, self._dtype, self._device = source, dtype, device

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close_files()

    def close_files(self) -> None:
        """Give back the memory of what was read so far, and of what was freed since."""
        self._source.close_files()
        give_back_heap()

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """One tensor, of the stage's dtype, on its device.

        Raises:
            ConfigError: it is missing, not of a float type, or its shape is not `shape`.
        """
        return self._stacked([self._source.tensor(name, shape)], shape)

    def vocab(self, name: str, hidden_size: int, shard: TensorShard) -> Tensor:
        """A rank's rows of a matrix [vocab, hidden]. Raises ConfigError, as `tensor` does."""
        shape = (shard.vocab.size, hidden_size)
        return self._stacked([self._share(name, shape, shard.vocab, 0)], shape)

    def fill(self, layer: "DecoderLayer", index: int, shard: TensorShard) -> None:
        """Give a decoder layer a rank's weights of layer `index` of the checkpoint.

        Raises:
            ConfigError: as `tensor` does.
        """
        head_dim = layer.attention.head_dim
        for name, meta in list(layer.named_parameters()):
            module_name, _, leaf = name.rpartition(".")
            shape, prefix = tuple(meta.shape), f"model.layers.{index}"
            shares = [_share_of(shard, part, len(shape), head_dim) for part in FUSED[module_name]]
            pieces = (
                self._share(f"{prefix}.{part.name}.{leaf}", shape, share, part.dim)
                for part, share in zip(FUSED[module_name], shares, strict=True)
            )
            module = layer.get_submodule(module_name)
            held = self._stacked(pieces, shape)
            setattr(module, leaf, nn.Parameter(held, requires_grad=False))

    def _share(self, name: str, shape: tuple[int, ...], share: Share | None, dim: int) -> Tensor:
        """A share in dimension `dim` of a tensor of which `shape` is held, or all of it."""
        if share is None:
            return self._source.tensor(name, shape)
        full = (*shape[:dim], share.whole, *shape[dim + 1 :])
        return self._source.tensor(name, full).narrow(dim, share.start, share.size)

    def _stacked(self, pieces: Iterable[Tensor], shape: tuple[int, ...]) -> Tensor:
        """The pieces one above the other, read one at a time, in memory of their own.

        A view would keep the whole file mapped, and count as this process's memory.
        """
        held = torch.empty(shape, dtype=self._dtype, device=self._device)
        row = 0
        for piece in pieces:
            held[row : row + len(piece)] = piece
            row += len(piece)
        assert row == shape[0], (row, shape)
        return held


def _share_of(shard: TensorShard, part: Part, num_dims: int, head_dim: int) -> Share | None:
    """In rows or columns of a weight, or of its bias; None for all of it."""
    # The bias of a weight that is split by columns is the first rank's alone.
    if not part.split_by or part.dim >= num_dims:
        return None
    share: Share = getattr(shard, part.split_by)
    width = 1 if part.split_by == "columns" else head_dim
    return Share(share.start * width, share.stop * width, share.whole * width)
