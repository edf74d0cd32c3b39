"""PP+SB, the rival with separate batching: prefill first, a batch is all prefill or all decode.

Waiting prompts are prefilled whenever their blocks are free, which interleaves long prefill
batches with short decode batches and so leaves bubbles (paper 2.3).
"""

from tdpipe.core.engine_state import EngineState
from tdpipe.policies.admission import WATERMARK, waiting_that_may_enter
from tdpipe.policies.decode_turns import DecodeShare, decode_batches_in_flight, next_decode_share
from tdpipe.policies.policy import Choice, PrefillChunk
from tdpipe.policies.preemption import make_room
from tdpipe.policies.prefill_draft import PrefillDraft


class SeparateBatching:
    """Prefill while prompts fit, else decode one P-th of the running requests.

    Args:
        share: takes the requests of a decode batch instead.
    """

    def __init__(self, share: DecodeShare = next_decode_share) -> None:
        self.share = share

    def __repr__(self) -> str:
        return f"SeparateBatching(share={self.share.__name__})"

    def plan(self, state: EngineState, now_s: float) -> Choice | None:
        prefills = self._prefills(state)
        if prefills:
            return Choice(prefills=prefills)
        if decode_batches_in_flight(state) >= state.limits.num_stages:
            return None
        decodes, victims = make_room(state, self.share(state))
        return Choice(decodes=decodes, preempted=victims) if decodes else None

    def _prefills(self, state: EngineState) -> tuple[PrefillChunk, ...]:
        """Whole prompts in order up to max_num_batched_tokens; a longer one goes alone."""
        limits = state.limits
        reserve = int(WATERMARK * limits.num_blocks) if state.resident else 0
        draft = PrefillDraft(state, state.pool.num_free - reserve)
        for request in waiting_that_may_enter(state):
            num_tokens = draft.num_tokens + draft.tokens_left(request)
            full = (
                num_tokens > limits.max_num_batched_tokens
                or len(draft.chunks) == limits.max_num_seqs
            )
            if draft.blocks(request) > draft.free_blocks or (draft.chunks and full):
                break
            draft.add(request)
        return tuple(draft.chunks)
