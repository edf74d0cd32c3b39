"""Reads the weights of one stage from safetensors files, and fuses what the decoder fuses."""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from safetensors import safe_open
from torch import Tensor, nn

from tdpipe.core.errors import ConfigError
from tdpipe.execution.models.weight_files import files_of_tensors, readable

if TYPE_CHECKING:
    from tdpipe.execution.models.decoder import DecoderLayer

# Decoder matrix -> the checkpoint matrices stacked in it, in order.
FUSED = {
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.out": ("self_attn.o_proj",),
    "mlp.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down": ("mlp.down_proj",),
    "attention_norm": ("input_layernorm",),
    "mlp_norm": ("post_attention_layernorm",),
    "attention.query_norm": ("self_attn.q_norm",),
    "attention.key_norm": ("self_attn.k_norm",),
}
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


class StageWeights:
    """Open safetensors files of a Hugging Face folder, one or several with an index.

    Raises:
        ConfigError: there are none, or a file or the index is broken.
    """

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
        self._folder, self._dtype, self._device = folder, dtype, device
        self._file_of = files_of_tensors(folder)
        self._open: dict[str, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def close_files(self) -> None:
        """Give back the pages read so far; what is read next opens its file again."""
        self._open.clear()
        self._stack.close()

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """One tensor, of the stage's dtype, on its device.

        Raises:
            ConfigError: it is missing, not of a float type, or its shape is not `shape`.
        """
        tensor = self._read(name)
        if tuple(tensor.shape) != shape:
            fix = f"its shape is {tuple(tensor.shape)}, config.json implies {shape}"
            raise ConfigError("weights", name, fix)
        # A copy: a view would keep the whole file mapped, and count as this process's memory.
        return tensor.to(device=self._device, dtype=self._dtype, copy=True)

    def fill(self, layer: "DecoderLayer", index: int) -> None:
        """Give a decoder layer the weights of layer `index` of the checkpoint."""
        for name, meta in list(layer.named_parameters()):
            module_name, _, leaf = name.rpartition(".")
            parts = [f"model.layers.{index}.{part}.{leaf}" for part in FUSED[module_name]]
            tensor = self._stacked(parts, tuple(meta.shape))
            module = layer.get_submodule(module_name)
            setattr(module, leaf, nn.Parameter(tensor, requires_grad=False))

    def _stacked(self, names: list[str], shape: tuple[int, ...]) -> Tensor:
        """The named tensors one above the other; read one at a time into their place."""
        if len(names) == 1:
            return self.tensor(names[0], shape)
        fused = torch.empty(shape, dtype=self._dtype, device=self._device)
        row = 0
        for name in names:
            part = self._read(name)
            if row + part.shape[0] > shape[0] or part.shape[1:] != fused.shape[1:]:
                fix = f"its shape {tuple(part.shape)} does not fit into {shape}"
                raise ConfigError("weights", name, fix)
            fused[row : row + part.shape[0]] = part
            row += part.shape[0]
        if row != shape[0]:
            raise ConfigError("weights", names[-1], f"{row} rows in all, not {shape[0]}")
        return fused

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
