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


# A character has four bytes at most, and a token at least one: so many tokens hold a whole one.
_CHARACTER_TOKENS = 4
# Tokens held back before the whole characters among them are looked for.
_MAX_HELD = 8


class IncrementalDetokenizer:
    """Appends tokens, returns the text they add; cost per token does not grow with the text.

    A token's text can depend on those before it (spaces, bytes of one character), so new text is
    the difference between decoding a short window with and without the new tokens. Text that ends
    in an incomplete character is held back until it is whole, until the tokens after it show that
    it never will be, or until `finish`.

    All text together is the decoded text of all tokens. Only a decoder with byte fallback may
    differ, in how many replacement characters it puts for a long run of bytes that are no text.
    """

    def __init__(self, tokenizer: Decoder) -> None:
        self._tokenizer = tokenizer
        self._pieces: list[str] = []
        self._shown: list[int] = []  # the tokens of the last text returned
        self._held: list[int] = []  # tokens after them, whose text has not been returned

    @property
    def text(self) -> str:
        """All text returned so far."""
        return "".join(self._pieces)

    def append(self, token_ids: Sequence[int]) -> str:
        """The text that these tokens add; empty while a character is incomplete."""
        self._held.extend(token_ids)
        before, after = self._decode(0), self._decode(len(self._held))
        if len(after) > len(before) and not after.endswith(REPLACEMENT):
            return self._show(len(self._held), after[len(before) :])
        if len(self._held) >= _MAX_HELD:
            return self._show_whole_characters()
        return ""

    def finish(self) -> str:
        """The text still held back."""
        before, after = self._decode(0), self._decode(len(self._held))
        return self._show(len(self._held), after[len(before) :])

    def _decode(self, num_held: int) -> str:
        return self._tokenizer.decode([*self._shown, *self._held[:num_held]])

    def _show(self, num_held: int, new_text: str) -> str:
        if new_text:
            self._shown = self._held[:num_held]
            self._held = self._held[num_held:]
            self._pieces.append(new_text)
        return new_text

    def _show_whole_characters(self) -> str:
        """The text of as many held tokens as make whole characters; empty if none do."""
        # Tokens that never have text (repeated end tokens, say) would be kept for good.
        self._held = [token_id for token_id in self._held if not self._is_silent(token_id)]
        before, after = self._decode(0), self._decode(len(self._held))
        lengths = range(len(self._held) - 1, max(0, len(self._held) - 1 - _CHARACTER_TOKENS), -1)
        texts = [(length, self._decode(length)) for length in lengths]
        for length, text in texts:
            if len(text) > len(before) and not text.endswith(REPLACEMENT):
                return self._show(length, text[len(before) :])
        for length, text in texts:
            # Bytes that are no text: if the rest decodes alike by itself, none of it belongs here.
            alone = self._tokenizer.decode(self._held[length:])
            if len(text) > len(before) and text + alone == after:
                return self._show(length, text[len(before) :])
        return ""

    def _is_silent(self, token_id: int) -> bool:
        """Whether this is a special token, which decoding skips wherever it stands."""
        shown = self._tokenizer.decode([token_id], skip_special_tokens=False)
        return bool(shown) and not self._tokenizer.decode([token_id])
