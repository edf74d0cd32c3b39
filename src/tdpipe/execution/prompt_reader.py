"""Forecasts output lengths on the last stage: hidden states at the prompts' ends in, tokens out.

They are there anyway when the first token is sampled, so this costs a matrix product of one row a
prompt. A prompt is read once; after a preemption nothing new is to be learned from it.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy.typing as npt
from torch import Tensor

from tdpipe.core.batch_plan import BatchPlan, Sample, SequenceStart


class LengthHead(Protocol):
    """Learned on the served model's own hidden states."""

    def forecast_means(
        self,
        hidden: npt.NDArray,  # type: ignore[type-arg]
        limits: Sequence[int] | None = None,
    ) -> list[int]:
        """Expected output tokens for final hidden states [prompts, hidden] in float32.

        `limits` are the prompts' max_tokens.
        """
        ...


# Stands for the max_tokens of a request that names none; the engine cuts at its context.
NO_LIMIT = 1 << 30


class PromptReader:
    """Applies a head to the prompts that a batch completes."""

    def __init__(self, head: LengthHead) -> None:
        self._head = head
        self._starts: dict[int, SequenceStart] = {}  # of sequences whose prompt is not complete

    def clear(self) -> None:
        """Forget every sequence."""
        self._starts.clear()

    def rows(self, plan: BatchPlan) -> dict[int, int]:
        """The plan's samples, by place, that are the first of their request; its max_tokens."""
        for request_id in plan.released:
            self._starts.pop(request_id, None)
        for start in plan.starts:
            self._starts[start.request_id] = start
        found: dict[int, int] = {}
        sampled = [piece for piece in plan.slices if piece.samples]
        for row, piece in enumerate(sampled):
            begun = self._starts.pop(piece.request_id, None)
            if begun is not None and begun.num_prompt_tokens == piece.context_tokens:
                found[row] = begun.params.max_tokens or NO_LIMIT
        return found

    def read(self, samples: list[Sample], rows: dict[int, int], states: Tensor) -> list[Sample]:
        """The samples, those in `rows` with the forecast from their states [rows, hidden]."""
        means = self._head.forecast_means(states.float().cpu().numpy(), list(rows.values()))
        for row, tokens in zip(rows, means, strict=True):
            samples[row] = samples[row]._replace(forecast_tokens=tokens)
        return samples
