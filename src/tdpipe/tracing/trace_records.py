"""A batch as decided, and a stage's work on it: what a run's record is made of."""

from dataclasses import dataclass

from tdpipe.core.batch_plan import Phase


@dataclass(frozen=True, slots=True)
class StageSpan:
    """A stage's work on a batch, from its input being there to its output being handed on.

    `collective_s` of that time were sums and gathers among the ranks that share the stage, waits
    for the slowest of them included.
    """

    stage: int
    batch_id: int
    start_s: float
    end_s: float
    collective_s: float = 0.0


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A batch as decided, with the state of the engine at that moment.

    `num_sampled` are the output tokens that it brings.
    """

    batch_id: int
    phase: Phase
    prefill_tokens: int
    num_prefills: int
    num_decodes: int
    submitted_s: float
    kv_used_blocks: int
    num_waiting: int
    num_resident: int
    reason: str
    num_sampled: int
