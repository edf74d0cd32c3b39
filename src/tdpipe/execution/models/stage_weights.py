"""Reads the weights of one stage from safetensors files, and fuses what the decoder fuses."""

import json
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from safetensors import safe_open
from torch import Tensor, nn

from tdpipe.core.errors import ConfigError

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


class StageWeights:
    """Open safetensors files of a Hugging Face folder, one or several with an index.

    Raises:
        ConfigError: there are none, or the index is broken.
    """

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
        self._folder, self._dtype, self._device = folder, dtype, device
        self._file_of = _index(folder)
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

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """One tensor, of the stage's dtype, on its device.

        Raises:
            ConfigError: it is missing, or its shape is not `shape`.
        """
        if name not in self._file_of:
            fix = f"the checkpoint in {self._folder.name} has no such tensor"
            raise ConfigError("weights", name, fix)
        tensor: Tensor = self._file(self._file_of[name]).get_tensor(name)
        if tuple(tensor.shape) != shape:
            fix = f"its shape is {tuple(tensor.shape)}, config.json implies {shape}"
            raise ConfigError("weights", name, fix)
        return tensor.to(device=self._device, dtype=self._dtype)

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
            if name not in self._file_of:
                self.tensor(name, shape)  # raises with the name
            part = self._file(self._file_of[name]).get_tensor(name)
            if row + part.shape[0] > shape[0] or part.shape[1:] != fused.shape[1:]:
                fix = f"its shape {tuple(part.shape)} does not fit into {shape}"
                raise ConfigError("weights", name, fix)
            fused[row : row + part.shape[0]] = part
            row += part.shape[0]
        if row != shape[0]:
            raise ConfigError("weights", names[-1], f"{row} rows in all, not {shape[0]}")
        return fused

    def _file(self, name: str) -> Any:
        if name not in self._open:
            opened = safe_open(self._folder / name, framework="pt", device="cpu")
            self._open[name] = self._stack.enter_context(opened)
        return self._open[name]


def _index(folder: Path) -> dict[str, str]:
    """Tensor name -> file name."""
    index_path = folder / "model.safetensors.index.json"
    if index_path.exists():
        mapping: dict[str, str] = json.loads(index_path.read_text())["weight_map"]
        missing = sorted({name for name in mapping.values() if not (folder / name).exists()})
        if missing:
            fix = f"{len(missing)} files of the index are missing; download the model again"
            raise ConfigError("model", missing[0], fix)
        return mapping
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    if not files:
        fix = "no *.safetensors in the folder; convert the model (save_pretrained) or use a GGUF"
        raise ConfigError("model", str(folder), fix)
    found: dict[str, str] = {}
    for name in files:
        with safe_open(folder / name, framework="pt", device="cpu") as opened:
            found.update(dict.fromkeys(opened.keys(), name))
    return found
