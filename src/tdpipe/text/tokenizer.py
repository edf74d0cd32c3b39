"""Text to token ids and back, from the tokenizer files of a Hugging Face folder.

Uses the tokenizers library directly, because importing transformers takes seconds; folders without
a tokenizer.json go through transformers. Jinja is imported with the first conversation.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as FastTokenizer

from tdpipe.core.errors import ConfigError, RequestRejected

if TYPE_CHECKING:
    from tdpipe.text.chat_template import ChatTemplate


class Tokenizer:
    """The tokenizer of a model folder.

    Raises:
        ConfigError: the folder has no tokenizer that can be loaded.
    """

    def __init__(self, folder: Path) -> None:
        self._fast = _load(folder)
        # Left over from training, in some models: prompts are never cut or filled up in silence.
        self._fast.no_truncation()
        self._fast.no_padding()
        self._settings = _settings(folder)
        self._template_source = _template_source(folder, self._settings)
        self._template: ChatTemplate | None = None
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
        """Token ids of several texts; raises as `encode`, for the first that cannot be encoded."""
        if not isinstance(texts, (list, tuple)):
            raise RequestRejected("prompts", texts, "give a list of strings")
        for text in texts:  # the library would take a pair of strings too
            if not isinstance(text, str):
                raise RequestRejected("prompt", text, "give a string")
        try:
            # The fast form leaves out character offsets, which nobody here reads.
            encoded = self._fast.encode_batch_fast(
                list(texts), add_special_tokens=add_special_tokens
            )
        except (TypeError, UnicodeEncodeError):  # which one, depends on the library's version
            for text in texts:
                _check_encodable(text)
            raise
        ids = [one.ids for one in encoded]
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
            ConfigError: the chat template is not valid jinja.
        """
        if self._template_source is None:
            fix = "the model has no chat template: give a prompt instead"
            raise RequestRejected("messages", messages, fix)
        if self._template is None:
            from tdpipe.text.chat_template import ChatTemplate

            tokens = _special_tokens(self._settings)
            self._template = ChatTemplate(self._template_source, tokens)
        # The template writes the special tokens itself.
        return self.encode(self._template.render(messages, **variables), add_special_tokens=False)

    def _special_id(self, name: str) -> int | None:
        text = _special_tokens(self._settings).get(name)
        token_id: int | None = None if text is None else self._fast.token_to_id(text)
        return token_id

    def _adds_bos(self) -> bool:
        # A post-processor in tokenizer.json decides alone, as it does in transformers. Without one
        # transformers adds nothing; a converted GGUF file states its wish in the settings only.
        return bool(self._settings.get("add_bos_token")) and self._fast.post_processor is None


def _check_encodable(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        fix = f"not valid text: {error.reason} at character {error.start}"
        raise RequestRejected("prompt", ascii(text), fix) from None


def _load(folder: Path) -> Any:
    path = folder / "tokenizer.json"
    if not path.is_file():
        return _load_by_transformers(folder)
    try:
        return FastTokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ConfigError("tokenizer", str(path), f"cannot be read ({error})") from None


def _load_by_transformers(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder).backend_tokenizer
    except Exception as error:  # of many kinds, by what is missing or wrong
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        fix = f"the folder has no usable tokenizer ({reason})"
        raise ConfigError("tokenizer", str(folder), fix) from None


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return {}
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError("tokenizer", str(path), f"cannot be read ({error})") from None
    return settings


def _special_tokens(settings: dict[str, Any]) -> dict[str, str]:
    """Text of the named special tokens that the settings have."""
    tokens = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = settings.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            tokens[name] = text
    return tokens


def _template_source(folder: Path, settings: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    source = path.read_text(encoding="utf-8") if path.is_file() else settings.get("chat_template")
    if isinstance(source, list):  # several named templates
        named = {entry["name"]: entry["template"] for entry in source}
        source = named.get("default")
    return source or None
