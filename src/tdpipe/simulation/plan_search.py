"""Which layout and scheduler a workload runs fastest with on a number of equal devices.

Every layout of P stages on T devices each that fits the memory is a candidate, with each of the
schedulers and with the partition whose lower bound is least. The search is best first: of each
candidate the bound is known, and the one that looks fastest is simulated next, so most of those
that cannot win never are. Where more than a few may win, there is a step between: a candidate is
simulated on a sample, and is taken to come as close to its bound on the whole as it came on the
sample. The best few are simulated on the whole. At last the best pipeline is tried with a layer
moved to or from its last stage, and with the schedulers that are seldom best.

With several processes the next few are simulated at once. Some of them one process would have
known not to need: a plan found so is as good or better.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context

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

# Candidates simulated on the whole after the first.
FINALISTS = 6
# Layers more on the last stage than in the balanced partition; of equal ones the first is taken.
MORE_LAST_LAYERS = (0, -1, 1, -2, 2)
# Work of a simulated run, in output tokens: what all candidates, and what the last few may cost.
SAMPLE_STEPS = 300_000
FINAL_STEPS = 1_250_000
# Prompt tokens that cost a simulated run as much as an output token.
PROMPT_TOKENS_PER_STEP = 8

Tell = Callable[[str], None]


@dataclass(slots=True)
class PlanSearch:
    """Answers a question for one number of devices or several, simulating nothing twice.

    Args:
        question: what is to be planned.
        tell: is told what happens next, in a few words.
        processes: simulations at a time.
        sample_steps, final_steps: output tokens that a simulated run may have.
    """

    question: PlanQuestion
    tell: Tell = lambda text: None
    processes: int = 1
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
        # Not forked: the caller may have threads.
        with ProcessPoolExecutor(self.processes, get_context("spawn")) as pool:
            self._settle(plans, finalists, pool)
            neighbours = list(self._neighbours(_in_order(plans)[0]))
            plans += neighbours
            self._settle(plans, finalists + len(neighbours), pool)
        return _in_order(plans)

    def _settle(self, plans: list[Plan], finalists: int, pool: ProcessPoolExecutor) -> None:
        """Simulate those that may be the best, on the sample first where they are too many."""
        while places := _open_places(plans, finalists):
            num_simulated = sum(plan.basis is Basis.SIMULATED for plan in plans)
            few = num_simulated == 0 or num_simulated + len(places) <= 1 + finalists
            fastest = sorted(places, key=lambda place: plans[place].makespan_s)[: self.processes]
            wholes = [few or plans[place].basis is Basis.ESTIMATED for place in fastest]
            scenarios = [
                plans[place].scenario if whole else self._sampled(plans[place])
                for place, whole in zip(fastest, wholes, strict=True)
            ]
            runs = self._runs_of(
                [
                    (one, plans[place].scheduler)
                    for one, place in zip(scenarios, fastest, strict=True)
                ],
                pool,
            )
            for place, scenario, run in zip(fastest, scenarios, runs, strict=True):
                plans[place] = _settled(plans[place], scenario, run)

    def _candidates(self, num_devices: int) -> Iterator[Plan]:
        question = self.question
        fitting: list[Plan] = []
        none_fits = True
        for balanced in layouts(question.shape, question.device, num_devices):
            bounded = list(self._bounded(_near(balanced, MORE_LAST_LAYERS)))
            if not bounded:
                continue
            none_fits = False
            scenario, bound = min(bounded, key=lambda pair: pair[1].seconds)
            names = schedulers_for(balanced, question.first_schedulers)
            fitting += [_known_by_bound(scenario, name, bound) for name in names]
        if none_fits:
            raise no_room_error(question, num_devices)
        if not fitting:
            fix = "they are for one stage, which does not fit: name a scheduler for pipelines too"
            raise ConfigError("schedulers", ",".join(question.schedulers), fix)
        yield from fitting

    def _bounded(self, placements: Iterable[Placement]) -> Iterator[tuple[Scenario, LowerBound]]:
        """Those placements that fit the memory, as scenarios with their bounds."""
        for placement in placements:
            scenario = self.question.scenario(placement, self.workload)
            try:
                # The longest request may not be among those simulated, but must fit.
                self.question.scenario(placement, self.question.workload).limits()
                yield scenario, scenario.bound()
            except CapacityError:
                continue

    def _sampled(self, plan: Plan) -> Scenario:
        if self._sample is self.workload:
            return plan.scenario
        return replace(plan.scenario, workload=self._sample)

    def _runs_of(
        self, jobs: Sequence[tuple[Scenario, str]], pool: ProcessPoolExecutor
    ) -> list[SimulatedRun]:
        """The runs of scenarios under schedulers; those made before are not made again."""
        keys = [(one.placement, name, len(one.workload.requests)) for one, name in jobs]
        new = {key: job for key, job in zip(keys, jobs, strict=True) if key not in self._runs}
        for scenario, scheduler in new.values():
            name = f"{layout_name(scenario.placement)} {scheduler}"
            self.tell(f"{name}, {len(scenario.workload.requests)} requests")
        run = map if len(new) < 2 else pool.map  # one alone needs no other process
        self._runs |= zip(new, run(_simulate, new.values()), strict=True)
        return [self._runs[key] for key in keys]

    def _neighbours(self, plan: Plan) -> Iterator[Plan]:
        """The plan with one layer more, and one less, on the last stage; with other schedulers."""
        placement, question = plan.scenario.placement, self.question
        for name in schedulers_for(placement, question.schedulers):
            if name not in question.first_schedulers:
                yield _known_by_bound(plan.scenario, name, plan.bound)
        for scenario, bound in self._bounded(_near(placement, (1, -1))):
            yield _known_by_bound(scenario, plan.scheduler, bound)


def _simulate(job: tuple[Scenario, str]) -> SimulatedRun:
    scenario, scheduler = job
    return scenario.run(scheduler)


def _settled(plan: Plan, scenario: Scenario, run: SimulatedRun) -> Plan:
    """The plan with what a run has shown, on the whole or on a sample."""
    if scenario is plan.scenario:
        return replace(plan, basis=Basis.SIMULATED, makespan_s=run.makespan_s, run=run)
    makespan_s = plan.bound.seconds * run.makespan_s / scenario.bound().seconds
    return replace(plan, basis=Basis.ESTIMATED, makespan_s=makespan_s, run=run)


def simulated_steps(workload: Workload) -> float:
    """What a run of the workload costs the simulator, in output tokens."""
    return workload.output_tokens + workload.prompt_tokens / PROMPT_TOKENS_PER_STEP


def shortened(workload: Workload, most_steps: float) -> Workload:
    """The workload, or a sample of its requests that costs the simulator about most_steps."""
    steps = simulated_steps(workload)
    if steps <= most_steps:
        return workload
    return workload.sample(max(1, round(len(workload.requests) * most_steps / steps)))


def _near(placement: Placement, more_last_layers: Sequence[int]) -> Iterator[Placement]:
    """The placement with so many layers more on its last stage, where that can be."""
    num_stages, num_layers = len(placement.layers), sum(placement.layers)
    least = 1 if num_stages > 1 else num_layers
    for more in more_last_layers:
        last = placement.layers[-1] + more
        if least <= last <= num_layers - (num_stages - 1):
            yield replace(placement, layers=spread_layers(num_layers, num_stages, last))


def _known_by_bound(scenario: Scenario, scheduler: str, bound: LowerBound) -> Plan:
    return Plan(scenario, scheduler, bound, Basis.BOUND, bound.seconds, None)


def _open_places(plans: list[Plan], finalists: int) -> list[int]:
    """Places of the plans that may turn out to be the best and are still to be simulated."""
    simulated = [plan.makespan_s for plan in plans if plan.basis is Basis.SIMULATED]
    best_s = min(simulated, default=float("inf"))

    def is_open(plan: Plan) -> bool:
        if plan.basis is Basis.ESTIMATED:
            return len(simulated) <= finalists
        return plan.basis is Basis.BOUND and plan.makespan_s < best_s

    return [place for place, plan in enumerate(plans) if is_open(plan)]


def _in_order(plans: list[Plan]) -> list[Plan]:
    """Best first; an estimate never stands before what was simulated, nor a bound before both."""
    trust = list(Basis)
    return sorted(plans, key=lambda plan: (trust.index(plan.basis), plan.makespan_s))
