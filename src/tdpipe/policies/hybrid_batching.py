"""PP+HB, the rival with hybrid batching: decodes first, then prefill chunks up to a token budget.

Chunked prefill (Sarathi-Serve) as the paper's baseline uses it: every batch holds about the same
number of tokens, but chunks read the context again and again, and budgets waste decode slots.
With one stage it is TP+HB.
"""

from tdpipe.core.engine_state import EngineState
from tdpipe.core.errors import ConfigError
from tdpipe.policies.admission import WATERMARK, waiting_that_may_enter
from tdpipe.policies.chunked_prefill import next_chunks
from tdpipe.policies.decode_turns import DecodeShare, decode_batches_in_flight, next_decode_share
from tdpipe.policies.policy import Choice, PrefillChunk
from tdpipe.policies.preemption import make_room


class HybridBatching:
    """Mixes one P-th of the decodes with prefill chunks under `budget_tokens` a batch.

    Args:
        share: takes the decodes of a batch instead.

    Raises:
        ConfigError: the budget is below 1.
    """

    def __init__(self, budget_tokens: int = 512, share: DecodeShare = next_decode_share) -> None:
        if budget_tokens < 1:
            raise ConfigError("budget_tokens", budget_tokens, "use 1 token or more")
        self.budget_tokens = budget_tokens
        self.share = share

    def __repr__(self) -> str:
        return f"HybridBatching({self.budget_tokens}, share={self.share.__name__})"

    def plan(self, state: EngineState, now_s: float) -> Choice | None:
        if decode_batches_in_flight(state) >= state.limits.num_stages:
            return None
        budget = min(self.budget_tokens, state.limits.max_num_batched_tokens)
        share = self.share(state)[:budget]
        decodes, victims = make_room(state, share)
        chunks: tuple[PrefillChunk, ...] = ()
        if not victims:  # blocks just taken from a request must not go to a newer one
            chunks = next_chunks(
                state,
                waiting_that_may_enter(state),
                budget - len(share),
                state.pool.num_free - sum(state.blocks_needed(one, 1) for one in share),
                int(WATERMARK * state.limits.num_blocks) if state.resident else 0,
                state.limits.max_num_seqs - len(share),
            )
        if not decodes and not chunks:
            return None
        return Choice(prefills=chunks, decodes=decodes, preempted=victims)
