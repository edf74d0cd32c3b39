"""How much work a job is expected to be, before anybody has tokenised its prompt.

The unit is the work of one output token. It only has to tell long jobs from short ones, so that no
replica gets all the long ones; the engines forecast lengths for themselves.
"""

from collections.abc import Sequence

# Characters to a token of running text.
TOKEN_CHARACTERS = 4
# Prompt tokens are computed many at a time, output tokens one by one: a tenth of the time, or less.
PROMPT_TOKEN_WORK = 0.1
# Expected of an output before any is known.
FIRST_GUESS_TOKENS = 128.0


class ExpectedWork:
    """Expects an output to be as long as the mean of those that ended, where nothing is known."""

    def __init__(self) -> None:
        self._num_outputs = 0
        self._num_tokens = 0

    def of(
        self,
        prompt_tokens: float,
        max_tokens: int | None,
        length_hint: int | None,
        n: int,
        ends_early: bool = True,
    ) -> float:
        """The work of a job of n completions; more than 0.

        Args:
            ends_early: whether an end-of-text token ends it (not so with ignore_eos).
        """
        if length_hint is not None:
            output_tokens = float(length_hint)
        elif max_tokens is not None and not ends_early:
            output_tokens = max_tokens
        else:
            output_tokens = self._mean_tokens
        if max_tokens is not None:
            output_tokens = min(output_tokens, max_tokens)
        return PROMPT_TOKEN_WORK * prompt_tokens + n * max(1.0, output_tokens)

    @property
    def _mean_tokens(self) -> float:
        return self._num_tokens / self._num_outputs if self._num_outputs else FIRST_GUESS_TOKENS

    def ended(self, output_tokens: int) -> None:
        """One output has ended with so many tokens."""
        self._num_outputs += 1
        self._num_tokens += output_tokens


def prompt_tokens_about(prompt: object, messages: object) -> float:
    """The tokens of a prompt (text or token ids) or of a chat, by its characters."""
    if isinstance(prompt, str):
        return len(prompt) / TOKEN_CHARACTERS
    if isinstance(prompt, Sequence):
        return float(len(prompt))
    return _num_characters(messages) / TOKEN_CHARACTERS


def _num_characters(value: object) -> int:
    """Of all texts in lists and dictionaries; what else there may be is no text."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_num_characters, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_num_characters, value))
    return 0
