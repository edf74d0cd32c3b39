"""A plan, the question that it answers, and the figures that plans are compared by."""

from dataclasses import dataclass
from enum import StrEnum

from tdpipe.core.model_shape import ModelShape
from tdpipe.cost.cost_model import BatchLoad
from tdpipe.cost.hardware_catalogue import Device
from tdpipe.cost.placement import Placement
from tdpipe.simulation.lower_bound import LowerBound
from tdpipe.simulation.scenario import Scenario
from tdpipe.simulation.simulated_run import SimulatedRun
from tdpipe.simulation.workload import Workload

# The last is seldom the best, and never by much: the layout that is best with the others will do.
FIRST_SCHEDULERS = ("adaptive", "token-throttling", "tp-hybrid")
DEFAULT_SCHEDULERS = (*FIRST_SCHEDULERS, "pp-hybrid")


@dataclass(frozen=True, slots=True)
class PlanQuestion:
    """What is to be planned; `schedulers` are tried on every layout that they are for.

    Of the default ones some are tried on the best layout of the others only.
    """

    shape: ModelShape
    device: Device
    workload: Workload
    schedulers: tuple[str, ...] = DEFAULT_SCHEDULERS
    predictor: str = "noisy"
    engine_overhead_s: float = 0.0

    @property
    def first_schedulers(self) -> tuple[str, ...]:
        """Those tried on every layout."""
        return FIRST_SCHEDULERS if self.schedulers == DEFAULT_SCHEDULERS else self.schedulers

    def scenario(self, placement: Placement, workload: Workload) -> Scenario:
        """The scenario of one layout."""
        return Scenario(
            placement, workload, self.predictor, engine_overhead_s=self.engine_overhead_s
        )


class Basis(StrEnum):
    """What a plan's time rests on."""

    SIMULATED = "simulated"
    ESTIMATED = "estimated"
    BOUND = "bound"


@dataclass(frozen=True, slots=True)
class Plan:
    """A layout with a scheduler, and the time that its workload takes.

    Attributes:
        scenario: the layout with the workload as it was simulated, or would have been.
        bound: of the scenario.
        makespan_s: simulated, estimated from a sample, or the bound itself (it takes longer).
        run: the simulated run, of a sample for an estimate; None where only the bound is known.
    """

    scenario: Scenario
    scheduler: str
    bound: LowerBound
    basis: Basis
    makespan_s: float
    run: SimulatedRun | None

    @property
    def tokens_per_s(self) -> float:
        """Prompt and output tokens per second."""
        workload = self.scenario.workload
        return (workload.prompt_tokens + workload.output_tokens) / self.makespan_s

    @property
    def bubble_share(self) -> float:
        """Idle share of the stages' time; 0 where nothing was simulated."""
        shares = self.run.busy_shares if self.run is not None else (1.0,)
        return 1.0 - sum(shares) / len(shares)

    @property
    def communication_share(self) -> float:
        """Share of the run that the all-reduces take, on the stage where they take most."""
        if self.run is None:
            return 0.0
        cost, run = self.scenario.placement.cost(), self.run
        tokens = run.prefilled_tokens + run.output_tokens
        # Linear in the tokens with a fixed part per batch, so batches can be added up.
        fixed = max(cost.communication_time_s(s, BatchLoad()) for s in range(cost.num_stages))
        load = BatchLoad(prefill_tokens=tokens)
        whole = max(cost.communication_time_s(s, load) for s in range(cost.num_stages))
        return ((run.num_batches - 1) * fixed + whole) / run.makespan_s
