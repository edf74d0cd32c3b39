"""Repetition, frequency and presence penalties, for all rows of a batch at once.

Definitions: CTRL (arXiv:1909.05858) for repetition, OpenAI's API for the others.
"""

from array import array
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from tdpipe.core.sampling_params import SamplingParams


def has_penalties(params: SamplingParams) -> bool:
    """Whether the sampler must remember a request's tokens."""
    return (
        params.repetition_penalty != 1.0
        or params.presence_penalty != 0.0
        or params.frequency_penalty != 0.0
    )


class TokenCounts:
    """Which tokens a sequence has seen, and how often in its output.

    `token_ids` are distinct, in order of first appearance; `in_output` counts each of them in the
    output (0: prompt only). Prompt tokens are kept only if `with_prompt`.
    """

    __slots__ = ("_place", "in_output", "token_ids", "with_prompt")

    def __init__(self, with_prompt: bool) -> None:
        self.with_prompt = with_prompt
        self.token_ids = array("q")
        self.in_output = array("q")
        self._place: dict[int, int] = {}

    def add_prompt(self, token_ids: Iterable[int]) -> None:
        """Take note of prompt tokens: only the repetition penalty knows them."""
        if self.with_prompt:
            for token_id in token_ids:
                self._place_of(token_id)

    def add_output(self, token_ids: Iterable[int]) -> None:
        """Count generated tokens."""
        for token_id in token_ids:
            self.in_output[self._place_of(token_id)] += 1

    def _place_of(self, token_id: int) -> int:
        place = self._place.setdefault(token_id, len(self.token_ids))
        if place == len(self.token_ids):
            self.token_ids.append(token_id)
            self.in_output.append(0)
        return place


Penalized = tuple[int, TokenCounts, SamplingParams]


def penalize(logits: Tensor, penalized: Sequence[Penalized]) -> None:
    """Apply penalties to some rows of logits [rows, vocab], in place; each row at most once."""
    token_ids, in_output = array("q"), array("q")
    for _, counts, _ in penalized:
        token_ids.extend(counts.token_ids)
        in_output.extend(counts.in_output)
    if not token_ids:
        return
    lengths = torch.tensor([len(counts.token_ids) for _, counts, _ in penalized])
    settings = torch.tensor(
        [
            (one.repetition_penalty, one.frequency_penalty, one.presence_penalty)
            for _, _, one in penalized
        ],
        dtype=logits.dtype,
    )
    device = logits.device
    settings = settings.repeat_interleave(lengths, dim=0).to(device)
    repetition, frequency, presence = settings.unbind(dim=1)  # each [tokens of all rows]
    rows = torch.tensor([row for row, _, _ in penalized]).repeat_interleave(lengths).to(device)
    columns = torch.frombuffer(token_ids, dtype=torch.int64).to(device)
    times = torch.frombuffer(in_output, dtype=torch.int64).to(device)
    values = logits[rows, columns]
    values = torch.where(values > 0, values / repetition, values * repetition)
    logits[rows, columns] = values - frequency * times - presence * (times > 0)
