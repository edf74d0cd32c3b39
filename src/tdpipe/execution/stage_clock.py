"""Where a stage's time goes, by phase and part; installed only where a benchmark asks for it.

The environment variable STAGE_CLOCK names a folder; each stage leaves stage-<number>.json there,
{phase: {part: seconds}}, of everything since the last reset. A part's time is its own: what it
calls counts there. Parts:

matrix products  projections, that to the vocabulary included
attention        over the cache, with the write to it
norms            RMSNorm
elementwise      rotations, activations, residual sums, and the calls between all these
sampling         from logits to tokens
python           plans to tensors, book-keeping, results to messages
waiting          for plans, and for the hidden states of the stage before
sending          hidden states to the stage behind
"""

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from tdpipe.core.batch_plan import BatchPlan
from tdpipe.execution.models.decoder import RMSNorm
from tdpipe.execution.models.projection import Projection
from tdpipe.execution.sampler import Sampler

if TYPE_CHECKING:
    from tdpipe.execution.stage_session import StageSession

STAGE_CLOCK = "TDPIPE_STAGE_CLOCK"


class StageClock:
    """Seconds by phase and part; one part runs at a time."""

    def __init__(self) -> None:
        self.seconds: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self.phase = "start"
        self._part = "waiting"
        self._since_s = time.perf_counter()

    def clear(self) -> None:
        """Forget what was counted."""
        self.seconds.clear()
        self._since_s = time.perf_counter()

    def switch(self, part: str) -> str:
        """Count from now on as `part`; returns what was counted before."""
        now_s = time.perf_counter()
        self.seconds[self.phase][self._part] += now_s - self._since_s
        before, self._part, self._since_s = self._part, part, now_s
        return before

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, counted as `part`."""

        def counted(*arguments: Any, **named: Any) -> Any:
            before = self.switch(part)
            try:
                return function(*arguments, **named)
            finally:
                self.switch(before)

        return counted


def install_stage_clock(session: "StageSession") -> Callable[[], None]:
    """Count the session's parts if the environment asks for it; returns what ends the count."""
    folder = os.environ.get(STAGE_CLOCK)
    if not folder:
        return lambda: None
    clock = StageClock()
    run_batch, reset = clock.timed("python", session._run_batch), session._reset

    def run_in_phase(plan: BatchPlan) -> None:
        clock.switch("waiting")  # ends the wait in the phase before
        clock.phase = plan.phase.value
        run_batch(plan)

    def reset_both() -> None:
        reset()
        clock.clear()

    replaced: Any = session
    replaced._run_batch, replaced._reset = run_in_phase, reset_both
    _count_model(clock, session)
    links: Any = session.links
    links.receive = clock.timed("waiting", links.receive)
    links.send = clock.timed("sending", links.send)
    sampler: Any = Sampler
    sampler.sample = clock.timed("sampling", Sampler.sample)

    def end() -> None:
        clock.switch("waiting")
        path = Path(folder) / f"stage-{session.spec.stage}.json"
        path.write_text(json.dumps(clock.seconds))

    return end


def _count_model(clock: StageClock, session: "StageSession") -> None:
    for module in session.model.modules():
        _count(clock, module, _part_of(module), "forward", "multiply")
    for layer in session.model.core_layers:
        for norm in layer.norms():
            _count(clock, norm, "norms", "forward", "of_heads")
    _count(clock, session.attention, "attention", "forward", "mix")


def _part_of(module: nn.Module) -> str:
    if isinstance(module, Projection):
        return "matrix products"
    return "norms" if isinstance(module, RMSNorm) else "elementwise"


def _count(clock: StageClock, one: Any, part: str, *names: str) -> None:
    """Count methods of an object, those of these names that it has, as a part."""
    for name in names:
        if hasattr(one, name):
            setattr(one, name, clock.timed(part, getattr(one, name)))
