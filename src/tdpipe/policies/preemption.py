"""Preemption by recomputation: when blocks run out, the youngest resident requests lose theirs.

A victim keeps its generated tokens, returns to the front of the waiting queue, and is prefilled
again later. Requests in flight cannot be victims: the stages are writing to their blocks.
"""

from collections.abc import Sequence

from tdpipe.core.engine_state import EngineState
from tdpipe.core.request import Request


def make_room(
    state: EngineState, decodes: Sequence[Request]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Victims that must go so that the remaining `decodes` can take one more token each.

    Returns:
        (ids of the decodes that stay, ids of the victims, youngest first). A decode may itself
        be a victim, so the first tuple can be empty.
    """
    needs = {request.request_id: state.blocks_needed(request, 1) for request in decodes}
    free, needed = state.pool.num_free, sum(needs.values())
    victims: list[int] = []
    if needed > free:
        for candidate in reversed(state.resident.values()):
            if needed <= free:
                break
            if candidate.num_in_flight:
                continue
            victims.append(candidate.request_id)
            free += state.blocks_freed(candidate)
            needed -= needs.pop(candidate.request_id, 0)
    assert needed <= free, (needed, free)
    return tuple(needs), tuple(victims)
