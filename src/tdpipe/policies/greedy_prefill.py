"""Greedy prefill: admit every prompt whose predicted memory fits at all future points.

Paper 3.2. Not "as much as fits now" but "as much as will ever fit": requests end at different
times and free memory before others grow. Batches are closed at the token count that saturates the
device, so that prefill batches are many, small and equal.
"""

from dataclasses import dataclass
from typing import Protocol

from tdpipe.core.engine_state import EngineState
from tdpipe.core.limits import Limits
from tdpipe.core.request import Request
from tdpipe.policies.admission import waiting_that_may_enter
from tdpipe.policies.kv_forecast import KVForecast, Usage, predicted_blocks
from tdpipe.policies.policy import PrefillChunk
from tdpipe.policies.prefill_draft import PrefillDraft
from tdpipe.policies.shared_blocks import SharedBlocks


class PrefillRule(Protocol):
    """How far a prefill phase goes."""

    def forecast(self, state: EngineState) -> KVForecast:
        """What the residents will use."""
        ...

    def next_batch(self, state: EngineState, forecast: KVForecast) -> list[PrefillChunk]:
        """The next waiting requests to prefill together; empty when the phase should end."""
        ...

    def would_admit(self, state: EngineState) -> list[list[PrefillChunk]]:
        """The prefill batches that a phase beginning now would run, if memory stayed as it is."""
        ...


@dataclass(frozen=True, slots=True)
class GreedyPrefill:
    """Parameters of the paper's reference.

    Attributes:
        threshold: share of all blocks that the forecast may reach.
        saturation_tokens: tokens that close a prefill batch.
        blocks: what a request is taken to use in future.
    """

    threshold: float = 0.9
    saturation_tokens: int = 192
    blocks: Usage = predicted_blocks

    def forecast(self, state: EngineState) -> KVForecast:
        """What the residents will use."""
        residents = state.resident.values()
        return KVForecast(state.limits.block_size, residents, self.blocks, SharedBlocks.of(state))

    def next_batch(self, state: EngineState, forecast: KVForecast) -> list[PrefillChunk]:
        """The next waiting requests to prefill together; empty when the phase should end.

        Adds the chosen requests to the forecast.
        """
        draft = PrefillDraft(state)
        for request in waiting_that_may_enter(state):
            tokens = draft.tokens_left(request)
            if draft.chunks and self._is_full(
                state.limits, len(draft.chunks), draft.num_tokens, tokens
            ):
                break
            alone = not state.resident and not draft.chunks
            if not self.fits(state, forecast, request, draft, alone):
                break
            draft.add(request)
            forecast.add(request)
        return draft.chunks

    def would_admit(self, state: EngineState) -> list[list[PrefillChunk]]:
        """The prefill batches that a phase beginning now would run, if memory stayed as it is."""
        forecast, draft = self.forecast(state), PrefillDraft(state)
        batches: list[list[PrefillChunk]] = []
        open_tokens = 0
        for request in waiting_that_may_enter(state):
            alone = not state.resident and not batches
            if not self.fits(state, forecast, request, draft, alone):
                break
            tokens = draft.tokens_left(request)
            draft.add(request)
            forecast.add(request)
            if not batches or self._is_full(state.limits, len(batches[-1]), open_tokens, tokens):
                batches.append([])
                open_tokens = 0
            batches[-1].append(draft.chunks[-1])
            open_tokens += tokens
        return batches

    def _is_full(self, limits: Limits, length: int, num_tokens: int, more_tokens: int) -> bool:
        """Whether a batch of `length` prompts is closed before one more request."""
        return (
            num_tokens >= self.saturation_tokens
            or length == limits.max_num_seqs
            or num_tokens + more_tokens > limits.max_num_batched_tokens
        )

    def fits(
        self,
        state: EngineState,
        forecast: KVForecast,
        request: Request,
        draft: PrefillDraft,
        alone: bool,
    ) -> bool:
        """Whether one more request may be admitted after those of the draft."""
        if draft.blocks(request) > draft.free_blocks:
            return False
        # With nothing resident the forecast must not lock out a request that fits the cache.
        return alone or forecast.peak_with(request) < self.threshold * state.limits.num_blocks


@dataclass(frozen=True, slots=True)
class OccupancyPrefill(GreedyPrefill):
    """Ablation: prefill until `occupancy` of the blocks are in use, whatever comes later."""

    occupancy: float = 0.9

    def fits(
        self,
        state: EngineState,
        forecast: KVForecast,
        request: Request,
        draft: PrefillDraft,
        alone: bool,
    ) -> bool:
        """Whether one more request may be admitted after those of the draft."""
        free = draft.free_blocks - draft.blocks(request)
        used = state.limits.num_blocks - free
        return free >= 0 and (alone or used <= self.occupancy * state.limits.num_blocks)
