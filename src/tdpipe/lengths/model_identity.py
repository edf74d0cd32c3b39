"""Which model lengths were learned from: a digest of its files, and its sizes.

Outputs' lengths depend on the weights, not on the architecture alone, and prompts on the
tokenizer: the digest covers both. The folder's name does not matter.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from tdpipe.core.errors import ConfigError
from tdpipe.core.model_shape import ModelShape

WHOLE_FILES = ("config.json", "tokenizer.json", "chat_template.jinja")
# Weight files are large: their ends, which differ between any two trained models, stand for them.
READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """A model's name, for people, and what tells it from others."""

    name: str
    digest: str
    shape: ModelShape


def model_digest(folder: Path) -> str:
    """32 hexadecimal digits for a Hugging Face folder's configuration, tokenizer and weights.

    Raises:
        ConfigError: a file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for name in WHOLE_FILES:
            if (folder / name).is_file():
                digest.update(name.encode() + (folder / name).read_bytes())
        for path in sorted(folder.glob("*.safetensors")):
            digest.update(f"{path.name} {path.stat().st_size}".encode() + _ends(path))
    except OSError as error:
        fix = f"cannot be read ({error.strerror})"
        raise ConfigError("model", str(folder), fix) from None
    return digest.hexdigest()[:32]


def _ends(path: Path) -> bytes:
    with path.open("rb") as file:
        first = file.read(READ_BYTES)
        file.seek(max(0, path.stat().st_size - READ_BYTES))
        return first + file.read(READ_BYTES)
