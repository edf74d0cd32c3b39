"""The protocol of a scheduler: look at the state, choose the next batch, write nothing."""

from dataclasses import dataclass
from typing import Protocol

from tdpipe.core.batch_plan import Phase
from tdpipe.core.engine_state import EngineState


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """The next num_tokens tokens of a request's prefill; the request may still be waiting.

    `start` tokens are there before: prefilled, or in common with another prompt.
    """

    request_id: int
    start: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Choice:
    """The next batch, before it has block ids and token ids.

    `preempted` requests give up their blocks first, youngest first. `reason` explains a switch
    of phase, with its numbers, and is empty otherwise.
    """

    prefills: tuple[PrefillChunk, ...] = ()
    decodes: tuple[int, ...] = ()
    preempted: tuple[int, ...] = ()
    reason: str = ""

    @property
    def phase(self) -> Phase:
        if self.prefills and self.decodes:
            return Phase.MIXED
        return Phase.PREFILL if self.prefills else Phase.DECODE


class Policy(Protocol):
    """A scheduler. Equal state, own phase and now_s give an equal answer."""

    def plan(self, state: EngineState, now_s: float) -> Choice | None:
        """The next batch, or None when nothing can be started before a result comes back."""
        ...
