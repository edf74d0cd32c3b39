"""Which layout and scheduler a workload runs fastest with on a number of equal devices.

Every layout of P stages on T devices each that fits the memory is a candidate, with each of the
schedulers. The search is best first: of each candidate its lower bound is known, and the candidate
that looks fastest is simulated next, so most of those that cannot win never are. For a large
workload there is a step between: a candidate is simulated on a sample, and is taken to come as
close to its bound on the whole as it came on the sample. The best few are simulated on the whole.
At last the best pipeline is tried with a layer moved to or from its last stage.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from tdpipe.core.errors import CapacityError, ConfigError
from tdpipe.cost.partition import spread_layers
from tdpipe.cost.placement import Placement
from tdpipe.simulation.layouts import check_num_devices, layout_name, layouts, schedulers_for
from tdpipe.simulation.lower_bound import LowerBound
from tdpipe.simulation.plan import Basis, Plan, PlanQuestion
from tdpipe.simulation.plan_memory import no_room_error
from tdpipe.simulation.scenario import Scenario
from tdpipe.simulation.simulated_run import SimulatedRun
from tdpipe.simulation.workload import Workload

FINALISTS = 3
# Work of a simulated run, in output tokens: what all candidates, and what the last few may cost.
SAMPLE_STEPS = 300_000
FINAL_STEPS = 1_500_000
# Prompt tokens that cost a simulated run as much as an output token.
PROMPT_TOKENS_PER_STEP = 8

Tell = Callable[[str], None]


@dataclass(slots=True)
class PlanSearch:
    """Answers a question for one number of devices or several, simulating nothing twice.

    Args:
        question: what is to be planned.
        tell: is told what happens next, in a few words.
        sample_steps, final_steps: output tokens that a simulated run may have.
    """

    question: PlanQuestion
    tell: Tell = lambda text: None
    sample_steps: int = SAMPLE_STEPS
    final_steps: int = FINAL_STEPS
    workload: Workload = field(init=False)
    _sample: Workload = field(init=False)
    _runs: dict[tuple[Placement, str, int], SimulatedRun] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.workload = shortened(self.question.workload, self.final_steps)
        # A sample that saves little is not worth its error.
        saves = simulated_steps(self.workload) > 1.5 * self.sample_steps
        self._sample = shortened(self.workload, self.sample_steps) if saves else self.workload

    def ranking(self, num_devices: int, finalists: int = FINALISTS) -> list[Plan]:
        """Plans for at most num_devices, best first; those known by their bound only come last.

        Raises:
            ConfigError: the number of devices, or the predictor, cannot be used, or none of the
                schedulers is for any of the layouts.
            CapacityError: no layout fits; the error names the memory and devices it would take.
        """
        check_num_devices(num_devices)
        plans = list(self._candidates(num_devices))
        while (index := _most_promising(plans, finalists)) is not None:
            sampled = plans[index].basis is Basis.ESTIMATED
            plans[index] = (self._simulated if sampled else self._tried)(plans[index])
        best = _in_order(plans)[0]
        return _in_order([*plans, *map(self._simulated, self._neighbours(best))])

    def _candidates(self, num_devices: int) -> Iterator[Plan]:
        question = self.question
        fitting: list[Plan] = []
        none_fits = True
        for placement in layouts(question.shape, question.device, num_devices):
            scenario = question.scenario(placement, self.workload)
            try:
                # The longest request may not be among those simulated, but must fit.
                question.scenario(placement, question.workload).limits()
                bound = scenario.bound()
            except CapacityError:
                continue
            none_fits = False
            names = schedulers_for(placement, question.schedulers)
            fitting += [_bounded(scenario, name, bound) for name in names]
        if none_fits:
            raise no_room_error(question, num_devices)
        if not fitting:
            fix = "they are for one stage, which does not fit: name a scheduler for pipelines too"
            raise ConfigError("schedulers", ",".join(question.schedulers), fix)
        yield from fitting

    def _tried(self, plan: Plan) -> Plan:
        if self._sample is self.workload:
            return self._simulated(plan)
        sample = replace(plan.scenario, workload=self._sample)
        run = self._run(sample, plan.scheduler)
        makespan_s = plan.bound.seconds * run.makespan_s / sample.bound().seconds
        return replace(plan, basis=Basis.ESTIMATED, makespan_s=makespan_s, run=run)

    def _simulated(self, plan: Plan) -> Plan:
        run = self._run(plan.scenario, plan.scheduler)
        return replace(plan, basis=Basis.SIMULATED, makespan_s=run.makespan_s, run=run)

    def _run(self, scenario: Scenario, scheduler: str) -> SimulatedRun:
        num_requests = len(scenario.workload.requests)
        key = (scenario.placement, scheduler, num_requests)
        if key not in self._runs:
            name = f"{layout_name(scenario.placement)} {scheduler}"
            self.tell(f"{name}, {num_requests} requests")
            self._runs[key] = scenario.run(scheduler)
        return self._runs[key]

    def _neighbours(self, plan: Plan) -> Iterator[Plan]:
        """The plan with one layer more, and one less, on the last stage."""
        old = plan.scenario.placement
        num_stages, num_layers = len(old.layers), sum(old.layers)
        if num_stages == 1:
            return
        for last in (old.layers[-1] + 1, old.layers[-1] - 1):
            if not 1 <= last <= num_layers - (num_stages - 1):
                continue
            layers = spread_layers(num_layers, num_stages, last)
            scenario = replace(plan.scenario, placement=replace(old, layers=layers))
            try:
                yield _bounded(scenario, plan.scheduler, scenario.bound())
            except CapacityError:
                continue


def simulated_steps(workload: Workload) -> float:
    """What a run of the workload costs the simulator, in output tokens."""
    return workload.output_tokens + workload.prompt_tokens / PROMPT_TOKENS_PER_STEP


def shortened(workload: Workload, most_steps: float) -> Workload:
    """The workload, or a sample of its requests that costs the simulator about most_steps."""
    steps = simulated_steps(workload)
    if steps <= most_steps:
        return workload
    return workload.sample(max(1, round(len(workload.requests) * most_steps / steps)))


def _bounded(scenario: Scenario, scheduler: str, bound: LowerBound) -> Plan:
    return Plan(scenario, scheduler, bound, Basis.BOUND, bound.seconds, None)


def _most_promising(plans: list[Plan], finalists: int) -> int | None:
    """Whose figures to better next: the fastest that may still turn out to be the best."""
    simulated = [plan.makespan_s for plan in plans if plan.basis is Basis.SIMULATED]
    best_s = min(simulated, default=float("inf"))

    def is_open(plan: Plan) -> bool:
        if plan.basis is Basis.ESTIMATED:
            return len(simulated) < finalists
        return plan.basis is Basis.BOUND and plan.makespan_s < best_s

    places = [place for place, plan in enumerate(plans) if is_open(plan)]
    return min(places, key=lambda place: plans[place].makespan_s, default=None)


def _in_order(plans: list[Plan]) -> list[Plan]:
    """Best first; an estimate never stands before what was simulated, nor a bound before both."""
    trust = list(Basis)
    return sorted(plans, key=lambda plan: (trust.index(plan.basis), plan.makespan_s))
