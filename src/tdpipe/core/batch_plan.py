"""What crosses the seam between control and execution: plain, frozen, wire-safe data.

A `BatchPlan` tells every stage what to compute next; workers remember block tables and sampling
settings, so a plan carries only what they do not know yet. A `BatchResult` brings sampled tokens
back. Neither knows a policy, a device or a tensor.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from tdpipe.core.sampling_params import SamplingParams


class Phase(StrEnum):
    """What a batch consists of."""

    PREFILL = "prefill"
    DECODE = "decode"
    MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class SequenceStart:
    """What the workers must know of a request before its first slice (again after a preemption).

    `end_token_ids` are all tokens that would end the request: the sampler forbids them until
    `params.min_tokens` outputs exist. Token positions from `num_prompt_tokens` on are output.
    """

    request_id: int
    num_prompt_tokens: int
    params: SamplingParams
    seed: int
    end_token_ids: tuple[int, ...]


class SequenceSlice(NamedTuple):
    """One request's part of a batch: tokens at positions start .. start + len(token_ids) - 1.

    A decode is a slice of one token. `new_block_ids` extends the block table that the workers
    hold for the request; other requests may have the same ones, and a request's first slice then
    starts behind them. `samples` is true when the slice's last position yields the next token.
    A named tuple, as `Sample` is: runs make millions, and a tuple is the cheapest frozen record.
    """

    request_id: int
    start: int
    token_ids: tuple[int, ...]
    new_block_ids: tuple[int, ...]
    samples: bool

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def context_tokens(self) -> int:
        """Tokens that attention reads for the slice's last position."""
        return self.start + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """One micro-batch: prefill slices first (`num_prefills` of them), then decodes.

    `released` names requests whose blocks went back to the pool since the last plan (finished,
    aborted or preempted): workers forget them before they read the rest of the plan.
    """

    batch_id: int
    phase: Phase
    num_prefills: int
    slices: tuple[SequenceSlice, ...]
    starts: tuple[SequenceStart, ...]
    released: tuple[int, ...]
    reason: str

    @property
    def num_tokens(self) -> int:
        return sum(piece.num_tokens for piece in self.slices)

    @property
    def num_sampled(self) -> int:
        return sum(piece.samples for piece in self.slices)


class Sample(NamedTuple):
    """One sampled token; log probabilities (natural) only where the request asked for them.

    `forecast_tokens` comes with a request's first token where a stage forecasts lengths.
    """

    request_id: int
    token_id: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    forecast_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The tokens sampled by the last stage for the batch `batch_id`, in slice order."""

    batch_id: int
    samples: tuple[Sample, ...]
