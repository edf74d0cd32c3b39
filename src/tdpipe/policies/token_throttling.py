"""Token throttling (gLLM, SC'25): hybrid batches whose prefill share follows demand and memory.

Before each batch the number of prefill tokens is set anew, so that waiting work is spread over
about T batches and admission slows down as the cache fills:

    demand = clamp(waiting tokens / T, min_p, max_p)
    memory = max_p x max((free - k) / (1 - k), 0)      free: share of the blocks that are free
    tokens = min(demand, memory, tokens that fit beyond the reserve of k x blocks)

Decodes are spread evenly: one P-th of the running requests a batch.
"""

from dataclasses import dataclass

from tdpipe.core.engine_state import EngineState
from tdpipe.policies.admission import waiting_that_may_enter
from tdpipe.policies.chunked_prefill import next_chunks
from tdpipe.policies.decode_turns import decode_batches_in_flight, next_decode_share
from tdpipe.policies.policy import Choice, PrefillChunk
from tdpipe.policies.preemption import make_room


@dataclass(frozen=True, slots=True)
class TokenThrottling:
    """Parameters of the published design.

    Attributes:
        num_iterations: T, batches over which waiting tokens are spread.
        min_tokens, max_tokens: least and most prefill tokens that demand asks for.
        reserve: k, share of the blocks that admission leaves free.
    """

    num_iterations: int = 8
    min_tokens: int = 32
    max_tokens: int = 2048
    reserve: float = 0.05

    def plan(self, state: EngineState, now_s: float) -> Choice | None:
        if decode_batches_in_flight(state) >= state.limits.num_stages:
            return None
        share = next_decode_share(state)
        decodes, victims = make_room(state, share)
        chunks: tuple[PrefillChunk, ...] = ()
        if not victims:  # blocks just taken from a request must not go to a newer one
            chunks = next_chunks(
                state,
                waiting_that_may_enter(state),
                min(self.prefill_tokens(state), state.limits.max_num_batched_tokens - len(share)),
                state.pool.num_free - sum(state.blocks_needed(one, 1) for one in share),
                self._reserved_blocks(state),
                state.limits.max_num_seqs - len(share),
            )
        if not decodes and not chunks:
            return None
        return Choice(prefills=chunks, decodes=decodes, preempted=victims)

    def prefill_tokens(self, state: EngineState) -> int:
        """Prefill tokens that the next batch may hold."""
        unsent = sum(request.num_unscheduled for request in state.prefilling.values())
        waiting = state.num_tokens_to_prefill + unsent
        demand = min(max(waiting // self.num_iterations, self.min_tokens), self.max_tokens)
        if not state.num_decoding:
            return demand  # nothing would make room: go on with what the cache holds
        free = state.pool.num_free / state.limits.num_blocks
        room = round(self.max_tokens * max((free - self.reserve) / (1 - self.reserve), 0.0))
        spare_blocks = state.pool.num_free - self._reserved_blocks(state)
        return min(demand, room, max(spare_blocks, 0) * state.limits.block_size)

    def _reserved_blocks(self, state: EngineState) -> int:
        return int(self.reserve * state.limits.num_blocks) if state.num_decoding else 0
