"""Forecasts output lengths on the last stage: hidden states at the prompts' ends in, tokens out.

They are there anyway when the first token is sampled, so this costs a matrix product of one row a
prompt. A prompt is read once; after a preemption nothing new is to be learned from it.
"""

from typing import Protocol

import numpy.typing as npt
from torch import Tensor

from tdpipe.core.batch_plan import BatchPlan, Sample


class LengthHead(Protocol):
    """Learned on the served model's own hidden states."""

    def forecast_means(self, hidden: npt.NDArray) -> list[int]:  # type: ignore[type-arg]
        """Expected output tokens for final hidden states [prompts, hidden] in float32."""
        ...


class PromptReader:
    """Applies a head to the prompts that a batch completes."""

    def __init__(self, head: LengthHead) -> None:
        self._head = head
        self._prompt_tokens: dict[int, int] = {}  # of sequences whose prompt is not complete

    def clear(self) -> None:
        """Forget every sequence."""
        self._prompt_tokens.clear()

    def rows(self, plan: BatchPlan) -> list[int]:
        """Which of the plan's samples, by place, are the first of their request."""
        for request_id in plan.released:
            self._prompt_tokens.pop(request_id, None)
        for start in plan.starts:
            self._prompt_tokens[start.request_id] = start.num_prompt_tokens
        sampled = [piece for piece in plan.slices if piece.samples]
        return [
            row
            for row, piece in enumerate(sampled)
            if self._prompt_tokens.pop(piece.request_id, None) == piece.context_tokens
        ]

    def read(self, samples: list[Sample], rows: list[int], states: Tensor) -> list[Sample]:
        """The samples, those in `rows` with the forecast from their states [rows, hidden]."""
        means = self._head.forecast_means(states.float().cpu().numpy())
        for row, tokens in zip(rows, means, strict=True):
            samples[row] = samples[row]._replace(forecast_tokens=tokens)
        return samples
