"""Forecasts output lengths on a stage: hidden states at the prompts' ends in, tokens out.

The states are there anyway while a prompt is computed, so this costs a matrix product of one row a
prompt. The stage that computes the layer that the head reads does it, whichever that is. A prompt
is read once; after a preemption nothing new is to be learned from it.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy.typing as npt
from torch import Tensor

from tdpipe.core.batch_plan import BatchPlan, SequenceStart


class LengthHead(Protocol):
    """Learned on the served model's own hidden states, after `depth` layers."""

    @property
    def depth(self) -> int: ...

    def forecast_means(
        self,
        hidden: npt.NDArray,  # type: ignore[type-arg]
        limits: Sequence[int] | None = None,
    ) -> list[int]:
        """Expected output tokens for states [prompts, hidden] in float32.

        `limits` are the prompts' max_tokens.
        """
        ...


class PromptEnd(NamedTuple):
    """A prompt that a batch completes: its place among the batch's samples, and its max_tokens."""

    sample: int
    request_id: int
    max_tokens: int


# Stands for the max_tokens of a request that names none; the engine cuts at its context.
NO_LIMIT = 1 << 30


class PromptReader:
    """Applies a head to the prompts that a batch completes."""

    def __init__(self, head: LengthHead) -> None:
        self._head = head
        self.depth = head.depth
        self._starts: dict[int, SequenceStart] = {}  # of sequences whose prompt is not complete

    def clear(self) -> None:
        """Forget every sequence."""
        self._starts.clear()

    def ends(self, plan: BatchPlan) -> list[PromptEnd]:
        """The prompts that the plan completes for the first time."""
        for request_id in plan.released:
            self._starts.pop(request_id, None)
        for start in plan.starts:
            self._starts[start.request_id] = start
        found: list[PromptEnd] = []
        sampled = [piece for piece in plan.slices if piece.samples]
        for place, piece in enumerate(sampled):
            begun = self._starts.pop(piece.request_id, None)
            if begun is not None and begun.num_prompt_tokens == piece.context_tokens:
                most = begun.params.max_tokens or NO_LIMIT
                found.append(PromptEnd(place, piece.request_id, most))
        return found

    def read(self, ends: Sequence[PromptEnd], states: Tensor) -> dict[int, int]:
        """Output tokens forecast for each request_id, from the prompts' states [ends, hidden]."""
        limits = [end.max_tokens for end in ends]
        means = self._head.forecast_means(states.cpu().numpy(), limits)
        return {end.request_id: tokens for end, tokens in zip(ends, means, strict=True)}
