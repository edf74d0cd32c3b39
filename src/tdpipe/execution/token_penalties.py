"""Repetition, frequency and presence penalties.

Definitions: CTRL (arXiv:1909.05858) for repetition, OpenAI's API for the others.
"""

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor

from tdpipe.core.sampling_params import SamplingParams


class TokenCounts:
    """Which tokens a sequence has seen, and how often in its output."""

    def __init__(self) -> None:
        self.output: Counter[int] = Counter()
        self.seen: dict[int, None] = {}

    def add_prompt(self, token_ids: Iterable[int]) -> None:
        """Count prompt tokens: only the repetition penalty knows them."""
        self.seen.update(dict.fromkeys(token_ids))

    def add_output(self, token_ids: Iterable[int]) -> None:
        """Count generated tokens."""
        token_ids = list(token_ids)
        self.output.update(token_ids)
        self.seen.update(dict.fromkeys(token_ids))


def penalize(logits: Tensor, counts: TokenCounts, params: SamplingParams) -> None:
    """Apply the penalties of one sequence to its logits [vocab], in place."""
    if params.repetition_penalty != 1.0 and counts.seen:
        ids = torch.tensor(list(counts.seen), device=logits.device)
        seen = logits[ids]
        factor = params.repetition_penalty
        logits[ids] = torch.where(seen > 0, seen / factor, seen * factor)
    if (params.frequency_penalty or params.presence_penalty) and counts.output:
        ids = torch.tensor(list(counts.output), device=logits.device)
        times = torch.tensor(list(counts.output.values()), device=logits.device)
        logits[ids] -= params.frequency_penalty * times + params.presence_penalty
