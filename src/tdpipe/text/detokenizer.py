"""Text of a growing token sequence, piece by piece."""

from collections.abc import Sequence
from typing import Protocol

# What a decoder puts for bytes that are not yet a whole character.
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Decoder(Protocol):
    """The part of a tokenizer that is needed here."""

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids."""
        ...


class IncrementalDetokenizer:
    """Appends tokens, returns the text they add; cost per token does not grow with the text.

    A token's text can depend on those before it (spaces, bytes of one character), so new text is
    the difference between decoding a short window with and without the new tokens. Text that ends
    in an incomplete character is held back until it is whole, or until `finish`.
    """

    def __init__(self, tokenizer: Decoder) -> None:
        self._tokenizer = tokenizer
        self._token_ids: list[int] = []
        self._pieces: list[str] = []
        self._window = 0  # first token of the window
        self._shown = 0  # tokens whose text has been returned

    @property
    def text(self) -> str:
        """All text returned so far."""
        return "".join(self._pieces)

    def append(self, token_ids: Sequence[int]) -> str:
        """The text that these tokens add; empty while a character is incomplete."""
        self._token_ids.extend(token_ids)
        before, after = self._decode_window()
        if len(after) <= len(before) or after.endswith(REPLACEMENT):
            return ""
        return self._advance(after[len(before) :])

    def finish(self) -> str:
        """The text still held back."""
        before, after = self._decode_window()
        return self._advance(after[len(before) :])

    def _decode_window(self) -> tuple[str, str]:
        window = self._token_ids[self._window :]
        before = self._tokenizer.decode(window[: self._shown - self._window])
        return before, self._tokenizer.decode(window)

    def _advance(self, new_text: str) -> str:
        self._window, self._shown = self._shown, len(self._token_ids)
        self._pieces.append(new_text)
        return new_text
