"""Text to token ids and back, from the tokenizer files of a Hugging Face folder.

Uses the tokenizers library directly, because importing transformers takes seconds; folders without
a tokenizer.json go through transformers.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

from tdpipe.core.errors import ConfigError, RequestRejected
from tdpipe.text.chat_template import ChatTemplate


class Tokenizer:
    """The tokenizer of a model folder.

    Raises:
        ConfigError: the folder has no tokenizer that can be loaded.
    """

    def __init__(self, folder: Path) -> None:
        self._fast = _load(folder)
        self._settings = _settings(folder)
        self._template = _template(folder, self._settings)
        self.eos_token_id = self._special_id("eos_token")
        self._bos_id = self._special_id("bos_token") if self._adds_bos() else None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text.

        Raises:
            RequestRejected: it is not a string, or not encodable (lone surrogates).
        """
        return self.encode_batch([text], add_special_tokens)[0]

    def encode_batch(
        self, texts: Sequence[str], add_special_tokens: bool = True
    ) -> list[list[int]]:
        """Token ids of several texts; raises as `encode`."""
        for text in texts:
            if not isinstance(text, str):
                raise RequestRejected("prompt", text, "give a string")
        try:
            encoded = self._fast.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        except UnicodeEncodeError as error:
            fix = f"not valid text: {error.reason} at character {error.start}"
            raise RequestRejected("prompt", ascii(error.object), fix) from None
        ids = [list(one.ids) for one in encoded]
        if add_special_tokens and self._bos_id is not None:
            return [one if one[:1] == [self._bos_id] else [self._bos_id, *one] for one in ids]
        return ids

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids."""
        text: str = self._fast.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
        return text

    def encode_chat(self, messages: Sequence[dict[str, Any]], **variables: Any) -> list[int]:
        """Token ids of a conversation, rendered with the model's chat template.

        The assistant's turn is opened (add_generation_prompt) unless `variables` says otherwise.

        Raises:
            RequestRejected: the model has no chat template, or the messages do not suit it.
        """
        if self._template is None:
            fix = "the model has no chat template: give a prompt instead"
            raise RequestRejected("messages", f"{len(messages)} messages", fix)
        # The template writes the special tokens itself.
        return self.encode(self._template.render(messages, **variables), add_special_tokens=False)

    def _special_id(self, name: str) -> int | None:
        value = self._settings.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if not isinstance(text, str):
            return None
        token_id: int | None = self._fast.token_to_id(text)
        return token_id

    def _adds_bos(self) -> bool:
        # With a post-processor in tokenizer.json that one adds it; else the setting decides.
        return bool(self._settings.get("add_bos_token")) and self._fast.post_processor is None


def _load(folder: Path) -> Any:
    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            return FastTokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ConfigError("tokenizer", str(path), f"cannot be read ({error})") from None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder).backend_tokenizer
    except (OSError, ValueError, AttributeError) as error:
        fix = f"the folder has no usable tokenizer ({str(error).splitlines()[0]})"
        raise ConfigError("tokenizer", str(folder), fix) from None


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return {}
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return settings


def _template(folder: Path, settings: dict[str, Any]) -> ChatTemplate | None:
    path = folder / "chat_template.jinja"
    source = path.read_text(encoding="utf-8") if path.is_file() else settings.get("chat_template")
    if isinstance(source, list):  # several named templates
        named = {entry["name"]: entry["template"] for entry in source}
        source = named.get("default")
    if not source:
        return None
    tokens = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = settings.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if text is not None:
            tokens[name] = text
    return ChatTemplate(source, tokens)
