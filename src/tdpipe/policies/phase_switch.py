"""What ends a decode phase: the intensity comparison, or a fixed share of finished requests."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tdpipe.core.engine_state import EngineState
from tdpipe.cost.cost_model import BatchLoad, CostModel, prefill_load
from tdpipe.policies.intensity import compare
from tdpipe.policies.policy import PrefillChunk


class PhaseSwitch(Protocol):
    """Asked once a round of decode batches, while requests wait and some of them fit."""

    def begin(self, state: EngineState) -> None:
        """A decode phase begins."""
        ...

    def reason(self, state: EngineState, prefills: Sequence[Sequence[PrefillChunk]]) -> str:
        """Why to switch now to the prefill batches that would be admitted; empty to decode on."""
        ...


class IntensitySwitch:
    """The paper's spatial-temporal intensity comparison (3.5)."""

    def __init__(self, cost: CostModel) -> None:
        self.cost = cost

    def begin(self, state: EngineState) -> None:
        pass

    def reason(self, state: EngineState, prefills: Sequence[Sequence[PrefillChunk]]) -> str:
        loads = [_batch_load(batch) for batch in prefills]
        size = -(-len(state.resident) // state.limits.num_stages)
        context = sum(request.num_tokens for request in state.resident.values())
        verdict = compare(self.cost, loads, size, context / len(state.resident))
        return str(verdict) if verdict.says_switch else ""


@dataclass(slots=True)
class FinishedShareSwitch:
    """Ablation: switch once `share` of the requests that began the phase have finished."""

    share: float = 0.2
    _begun_with: int = 0
    _finished_before: int = 0

    def begin(self, state: EngineState) -> None:
        self._begun_with, self._finished_before = len(state.resident), state.num_finished

    def reason(self, state: EngineState, prefills: Sequence[Sequence[PrefillChunk]]) -> str:
        finished = state.num_finished - self._finished_before
        if finished < self.share * self._begun_with:
            return ""
        return f"{finished} of {self._begun_with} finished"


def _batch_load(batch: Sequence[PrefillChunk]) -> BatchLoad:
    loads = [prefill_load(chunk.start, chunk.num_tokens) for chunk in batch]
    return BatchLoad(
        prefill_tokens=sum(load.prefill_tokens for load in loads),
        prefill_pairs=sum(load.prefill_pairs for load in loads),
        sampled=len(loads),
    )
