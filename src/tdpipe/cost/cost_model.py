"""What a stage's time depends on, and the protocol that turns it into seconds."""

from dataclasses import dataclass
from typing import Protocol

from tdpipe.core.batch_plan import BatchPlan


@dataclass(frozen=True, slots=True)
class BatchLoad:
    """The work in one batch.

    Attributes:
        prefill_tokens: prompt tokens computed.
        prefill_pairs: (query, key) pairs that prefill attention visits, quadratic in length.
        decode_sequences: sequences that advance by one token.
        decode_context_tokens: cached tokens that decode attention reads, all sequences together.
        sampled: positions that the vocabulary projection covers.
    """

    prefill_tokens: int = 0
    prefill_pairs: int = 0
    decode_sequences: int = 0
    decode_context_tokens: int = 0
    sampled: int = 0

    @property
    def num_tokens(self) -> int:
        return self.prefill_tokens + self.decode_sequences


def prefill_load(start: int, num_tokens: int, samples: bool = True) -> BatchLoad:
    """Load of computing positions start .. start + num_tokens - 1 of one sequence."""
    pairs = prefill_pairs(start, num_tokens)
    return BatchLoad(prefill_tokens=num_tokens, prefill_pairs=pairs, sampled=int(samples))


def prefill_pairs(start: int, num_tokens: int) -> int:
    """(query, key) pairs of causal attention at positions start .. start + num_tokens - 1."""
    return num_tokens * start + num_tokens * (num_tokens + 1) // 2


def decode_load(num_sequences: int, context_tokens: int) -> BatchLoad:
    """Load of one decode step of num_sequences with context_tokens cached tokens in all."""
    return BatchLoad(
        decode_sequences=num_sequences,
        decode_context_tokens=context_tokens,
        sampled=num_sequences,
    )


def plan_load(plan: BatchPlan) -> BatchLoad:
    """Load of a planned batch."""
    tokens = pairs = sampled = 0
    for piece in plan.slices[: plan.num_prefills]:
        count = len(piece.token_ids)
        tokens += count
        pairs += prefill_pairs(piece.start, count)
        sampled += piece.samples
    decodes = plan.slices[plan.num_prefills :]
    context = sum([piece.start for piece in decodes]) + len(decodes)
    return BatchLoad(tokens, pairs, len(decodes), context, sampled + len(decodes))


class CostModel(Protocol):
    """Seconds that the stages and the links between them need."""

    num_stages: int

    def stage_time_s(self, stage: int, load: BatchLoad) -> float:
        """Compute time of a batch on one stage."""
        ...

    def transfer_time_s(self, num_tokens: int) -> float:
        """Time of moving num_tokens hidden states to the next stage."""
        ...


def slowest_stage_time_s(cost: CostModel, load: BatchLoad) -> float:
    """Time of a batch on the stage where it takes longest: the pace of a full pipeline."""
    return max(cost.stage_time_s(stage, load) for stage in range(cost.num_stages))
