"""The whole front end and engine over a fake executor: what `LLM` is, without its processes."""

from factories import make_cost, make_limits
from fakes import FakeExecutor, next_token
from tdpipe.core.limits import Limits
from tdpipe.execution.models.model_source import resolve_model
from tdpipe.execution.wire import Run, encode
from tdpipe.frontend.intake_forecasts import IntakeForecasts
from tdpipe.frontend.job_run import JobRun, RunParts
from tdpipe.policies.scheduler_registry import make_scheduler
from tdpipe.prediction.max_tokens import MaxTokensPredictor
from tdpipe.text.tokenizer import Tokenizer

MODEL = "smollm2-135m-instruct"


class SeededExecutor(FakeExecutor):
    """Tokens follow from a request's seed, as sampled ones do, not from its number."""

    def __init__(self, *shape: int) -> None:
        super().__init__(*shape)
        self.spans = []
        self.seeds: dict[int, int] = {}

    def begin_run(self):
        pass

    def settle(self):
        pass

    def submit(self, plan):
        assert encode(Run(plan))  # whatever a user asks for can travel to the stages
        self.seeds.update((start.request_id, start.seed) for start in plan.starts)
        super().submit(plan)

    def token(self, request_id, position):
        return next_token(self.seeds[request_id], position)


class EngineWithoutStages:
    """`submit_iter` and `finish_early` of LLM."""

    executor_class: type[SeededExecutor] = SeededExecutor

    def __init__(self, limits: Limits | None = None, scheduler: str = "adaptive") -> None:
        self.limits = limits or make_limits(num_blocks=4096, max_model_len=512)
        self.scheduler = scheduler
        self.run: JobRun | None = None
        self._source = resolve_model(MODEL)
        self._tokenizer = Tokenizer(self._source.folder)

    def submit_iter(self, jobs, on_progress=None):
        executor = self.executor_class(2, self.limits.num_blocks, self.limits.block_size)
        cost = make_cost(2)
        self.run = JobRun(jobs, RunParts(
            executor=executor, limits=lambda: self.limits, scheduler=self.scheduler,
            new_policy=lambda: make_scheduler(self.scheduler, cost), cost=cost,
            predictor=MaxTokensPredictor(), forecasts=IntakeForecasts(),
            tokenizer=lambda: self._tokenizer, source=self._source, partition=(15, 15), seed=0,
            max_restarts=3, settings={},
        ), on_progress)  # fmt: skip
        try:
            yield from self.run.results()
        finally:
            self.run.settle()

    def finish_early(self, grace_s: float) -> bool:
        return self.run is not None and self.run.finish_early(grace_s)
