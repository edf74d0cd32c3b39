"""PP+HB, the rival with hybrid batching: decodes first, then prefill chunks up to a token budget.

Chunked prefill (Sarathi-Serve) as the paper's baseline uses it: every batch holds about the same
number of tokens, but chunks read the context again and again, and budgets waste decode slots.
"""

from collections.abc import Iterator

from tdpipe.core.engine_state import EngineState
from tdpipe.core.errors import ConfigError
from tdpipe.core.request import Request
from tdpipe.policies.admission import WATERMARK, waiting_that_may_enter, whole_prefill_blocks
from tdpipe.policies.decode_turns import decode_batches_in_flight, next_decode_share
from tdpipe.policies.policy import Choice, PrefillChunk
from tdpipe.policies.preemption import make_room


class HybridBatching:
    """Mixes one P-th of the decodes with prefill chunks under `budget_tokens` a batch.

    Raises:
        ConfigError: the budget is below 1.
    """

    def __init__(self, budget_tokens: int = 512) -> None:
        if budget_tokens < 1:
            raise ConfigError("budget_tokens", budget_tokens, "use 1 token or more")
        self.budget_tokens = budget_tokens

    def __repr__(self) -> str:
        return f"HybridBatching(budget_tokens={self.budget_tokens})"

    def plan(self, state: EngineState, now_s: float) -> Choice | None:
        if decode_batches_in_flight(state) >= state.limits.num_stages:
            return None
        share = next_decode_share(state)[: self.budget_tokens]
        decodes, victims = make_room(state, share)
        # Blocks just taken from a request must not go to a newer one.
        chunks = () if victims else self._chunks(state, share)
        if not decodes and not chunks:
            return None
        return Choice(prefills=chunks, decodes=decodes, preempted=victims)

    def _chunks(self, state: EngineState, decodes: list[Request]) -> tuple[PrefillChunk, ...]:
        """Prefill chunks in what the decodes leave of the budget and of the free blocks."""
        budget = self.budget_tokens - len(decodes)
        free = state.pool.num_free - sum(state.blocks_needed(request, 1) for request in decodes)
        places = state.limits.max_num_seqs - len(decodes)
        reserve = int(WATERMARK * state.limits.num_blocks) if state.resident else 0
        chunks: list[PrefillChunk] = []
        for request in _prefill_order(state):
            left = request.num_unscheduled
            if request.num_scheduled == 0 and whole_prefill_blocks(state, request) > free - reserve:
                break  # admit only whole prompts, else half-done ones crowd out the decodes
            room = free * state.limits.block_size + _slack_tokens(state, request)
            num_tokens = min(left, budget, room)
            if num_tokens <= 0 or places == len(chunks):
                break
            chunks.append(PrefillChunk(request.request_id, num_tokens))
            budget -= num_tokens
            free -= state.blocks_needed(request, num_tokens)
            if num_tokens < left:
                break  # one unfinished prefill at a time, else unfinished ones can lock up memory
        return tuple(chunks)


def _prefill_order(state: EngineState) -> Iterator[Request]:
    """Prefills already begun, then the waiting requests."""
    yield from (request for request in state.resident.values() if request.is_prefilling)
    yield from waiting_that_may_enter(state)


def _slack_tokens(state: EngineState, request: Request) -> int:
    """Tokens that fit in the blocks the request already holds."""
    return len(request.block_ids) * state.limits.block_size - request.num_scheduled
