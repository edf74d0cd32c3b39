"""Prefill in chunks: what a token budget and the free blocks allow of the next prompts."""

from collections.abc import Iterable
from itertools import chain

from tdpipe.core.engine_state import EngineState
from tdpipe.core.request import Request
from tdpipe.policies.policy import PrefillChunk
from tdpipe.policies.prefill_draft import PrefillDraft


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
    draft = PrefillDraft(state, free_blocks)
    for request in chain(state.prefilling.values(), candidates):
        left = draft.tokens_left(request)
        is_new = request.num_scheduled == 0
        if is_new and draft.blocks(request) > draft.free_blocks - reserve_blocks:
            break  # admit only whole prompts, else half-done ones crowd out the decodes
        num_tokens = min(left, budget_tokens - draft.num_tokens, draft.room_tokens(request))
        if num_tokens <= 0 or places == len(draft.chunks):
            break
        draft.add(request, num_tokens)
        if num_tokens < left:
            break  # one unfinished prefill at a time, else unfinished ones can lock up memory
    return tuple(draft.chunks)
