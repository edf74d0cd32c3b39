"""The fixed numbers that every plan obeys."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one engine.

    Attributes:
        num_stages: pipeline stages, and decode batches that travel at once.
        block_size: tokens in a KV block.
        num_blocks: KV blocks of the smallest stage (all stages share one block table).
        max_model_len: prompt and output tokens of a request together, at most.
        max_num_seqs: sequences in a batch, at most.
        max_num_batched_tokens: tokens in a hybrid batch or a batch of several prompts, at most;
            a longer single prompt still runs alone under separate batching.
    """

    num_stages: int
    block_size: int
    num_blocks: int
    max_model_len: int
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048

    @property
    def kv_tokens(self) -> int:
        """Tokens that the whole KV cache holds."""
        return self.num_blocks * self.block_size
