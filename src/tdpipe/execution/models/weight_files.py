"""Which safetensors file of a Hugging Face folder holds which tensor. Reads headers, no tensors."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open

from tdpipe.core.errors import ConfigError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def files_of_tensors(folder: Path) -> dict[str, str]:
    """Tensor name -> file name.

    Raises:
        ConfigError: there are no files, one is missing or damaged, or the index is broken.
    """
    if (folder / INDEX).exists():
        return _indexed(folder)
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    if SINGLE in files:
        files = [SINGLE]  # others beside it are copies in another layout, or adapters
    if not files:
        fix = "no *.safetensors in the folder; convert the model (save_pretrained) or use a GGUF"
        raise ConfigError("model", str(folder), fix)
    found: dict[str, str] = {}
    for name in files:
        with (
            readable(folder / name, name),
            safe_open(folder / name, framework="np", device="cpu") as opened,
        ):
            found.update(dict.fromkeys(opened.keys(), name))
    return found


@contextmanager
def readable(path: Path, wanted: str) -> Iterator[None]:
    """Turns what goes wrong while `wanted` is read from `path` into a ConfigError."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        fix = f"not readable as safetensors in {path.name} ({error}); download the model again"
        raise ConfigError("weights", wanted, fix) from None


def _indexed(folder: Path) -> dict[str, str]:
    path = folder / INDEX
    try:
        mapping: dict[str, str] = dict(json.loads(path.read_text())["weight_map"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        fix = f"not a readable index ({error!r}); download the model again"
        raise ConfigError("model", str(path), fix) from None
    missing = sorted({name for name in mapping.values() if not (folder / name).is_file()})
    if missing:
        fix = f"{len(missing)} files of the index are missing; download the model again"
        raise ConfigError("model", missing[0], fix)
    return mapping
