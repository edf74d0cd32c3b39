"""Prefill in chunks: what a token budget and the free blocks allow of the next prompts."""

from collections.abc import Iterable
from itertools import chain

from tdpipe.core.engine_state import EngineState
from tdpipe.core.request import Request
from tdpipe.policies.admission import whole_prefill_blocks
from tdpipe.policies.policy import PrefillChunk


def next_chunks(
    state: EngineState,
    candidates: Iterable[Request],
    budget_tokens: int,
    free_blocks: int,
    reserve_blocks: int,
    places: int,
) -> tuple[PrefillChunk, ...]:
    """Chunks of at most budget_tokens in all, prefills already begun first.

    Args:
        candidates: waiting requests in the order of admission.
        free_blocks: blocks that the chunks may take.
        reserve_blocks: of these, blocks that no new request may be admitted into.
        places: chunks at most.
    """
    chunks: list[PrefillChunk] = []
    for request in chain(state.prefilling.values(), candidates):
        left = request.num_unscheduled
        is_new = request.num_scheduled == 0
        if is_new and whole_prefill_blocks(state, request) > free_blocks - reserve_blocks:
            break  # admit only whole prompts, else half-done ones crowd out the decodes
        room = free_blocks * state.limits.block_size + _slack_tokens(state, request)
        num_tokens = min(left, budget_tokens, room)
        if num_tokens <= 0 or places == len(chunks):
            break
        chunks.append(PrefillChunk(request.request_id, num_tokens))
        budget_tokens -= num_tokens
        free_blocks -= state.blocks_needed(request, num_tokens)
        if num_tokens < left:
            break  # one unfinished prefill at a time, else unfinished ones can lock up memory
    return tuple(chunks)


def _slack_tokens(state: EngineState, request: Request) -> int:
    """Tokens that fit in the blocks the request already holds."""
    return len(request.block_ids) * state.limits.block_size - request.num_scheduled
