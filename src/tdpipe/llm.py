"""The offline front end: prompts in, finished text out."""

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tdpipe.config.engine_config import EngineConfig
from tdpipe.control.request_check import check_request
from tdpipe.core.errors import ConfigError, RequestRejected, StageFailed
from tdpipe.core.limits import Limits
from tdpipe.core.sampling_params import SamplingParams
from tdpipe.execution.models.model_source import resolve_model
from tdpipe.frontend.job_intake import prompt_token_ids
from tdpipe.frontend.job_run import JobRun, RunParts, TakenBack
from tdpipe.frontend.pipeline_setup import resolve_setup
from tdpipe.frontend.predictor_setup import resolve_predictor
from tdpipe.lengths.model_identity import model_digest
from tdpipe.outputs import Job, JobResult, Progress, RequestOutput, StreamUpdate
from tdpipe.policies.scheduler_registry import make_scheduler
from tdpipe.reporting.run_record import RunRecord
from tdpipe.reporting.run_summary import RunSummary
from tdpipe.reporting.timeline_file import write_timeline
from tdpipe.text.tokenizer import Tokenizer
from tdpipe.tracing.run_trace import RunTrace

Result = TypeVar("Result")
Prompts = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]
Messages = list[dict[str, object]]
Params = SamplingParams | Sequence[SamplingParams] | None


class LLM:
    """A model on a pipeline of stage processes.

    The stages start in the background; the first run waits for them. Use it as a context manager
    or call `close`: either ends all processes.

    Args:
        model: see EngineConfig, as for all settings in `settings`.
        timeline: file for a Chrome trace of the latest run.
        memory_share: of the machine's free memory, the part that this engine may take on CPU,
            where several engines share the machine.

    Raises:
        ConfigError: a setting cannot be used.
        CapacityError: the KV memory is too small for one request.
        StageFailed: (from any run) a stage failed more often than max_restarts; the LLM is closed
            then.
        RequestFailed: (from any run) the stages fail at one request whenever it is computed.
    """

    def __init__(
        self,
        model: str,
        *,
        timeline: str | Path | None = None,
        memory_share: float = 1.0,
        **settings: Any,
    ) -> None:
        self._closed = True
        self.config = make_config(model, settings)
        self._timeline = Path(timeline) if timeline is not None else None
        self._source = resolve_model(model, self.config.load_format)
        self._setup = resolve_setup(self.config, self._source, memory_share)
        self._tokenizer: Tokenizer | None = None
        self._predictor = resolve_predictor(self.config, self._source, lambda: self.tokenizer)
        self._limits: Limits | None = None
        self._last_run: JobRun | None = None
        self._open_run: JobRun | None = None
        self._executor = self._setup.executor(self._source.folder, self._predictor.head_file)
        self._closed = False

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, loaded on first use."""
        if self._tokenizer is None:
            self._tokenizer = Tokenizer(self._source.folder)
        return self._tokenizer

    @property
    def partition(self) -> tuple[int, ...]:
        """Layers per stage."""
        return self._setup.layers

    @property
    def pids(self) -> list[int]:
        """Process ids of the present stages: a fault replaces them all."""
        return self._executor.pids

    # ---- runs

    def generate(self, prompts: Prompts, params: Params = None) -> list[RequestOutput]:
        """Complete prompts (texts or token ids); outputs in input order.

        Raises:
            RequestRejected: a prompt or its params cannot be served; nothing is run then.
        """
        return self._collect(_prompt_jobs(prompts, params))

    def chat(
        self, messages: Messages | list[Messages], params: Params = None
    ) -> list[RequestOutput]:
        """Answer one conversation or several, with the model's chat template."""
        if not messages:
            raise RequestRejected("messages", messages, "give at least one message")
        many = messages if isinstance(messages[0], list) else [messages]
        chosen = _params_for(len(many), params)
        jobs = [
            Job(i, None, talk, one) for i, (talk, one) in enumerate(zip(many, chosen, strict=True))
        ]
        return self._collect(jobs)

    def generate_iter(self, prompts: Prompts, params: Params = None) -> Iterator[RequestOutput]:
        """Like generate, but yields each output as it finishes; `index` is its input position."""
        with closing(self.submit_iter(_prompt_jobs(prompts, params))) as results:
            for result in results:
                yield _output_of(result)

    def stream(
        self, prompt: str | Messages | Sequence[int], params: SamplingParams | None = None
    ) -> Iterator[StreamUpdate]:
        """Complete one prompt (or conversation) and yield its text as it comes."""
        is_chat = not isinstance(prompt, str) and bool(prompt) and isinstance(prompt[0], dict)
        chosen = params or SamplingParams()
        if chosen.n != 1:
            raise RequestRejected("n", chosen.n, "stream one completion at a time")
        job = Job(0, None if is_chat else prompt, prompt if is_chat else None, chosen)  # type: ignore[arg-type]
        run = self._begin([job], None)
        yield from self._guarded(run, run.stream())

    def submit_iter(
        self, jobs: Iterable[Job], on_progress: Callable[[Progress], None] | None = None
    ) -> Generator[JobResult, None, None]:
        """Run jobs, read lazily on a thread; yields each job's output or error as it ends."""
        run = self._begin(jobs, on_progress)
        yield from self._guarded(run, run.results())

    def finish_early(self, grace_s: float = 0.0) -> bool:
        """Let the present run finish what decodes, for grace_s at most; from a signal handler too.

        The run's results end then, without those of the jobs that were left. False when there is
        no run that decodes.
        """
        return self._open_run is not None and self._open_run.finish_early(grace_s)

    def take_back(self, keys: Collection[object], on_taken: TakenBack) -> bool:
        """Give up those jobs of the present run that have not begun; from any thread.

        They end without a result; `on_taken` gets their keys, which must be hashable. False when
        there is no run.
        """
        run = self._open_run
        if run is not None:
            run.take_back(keys, on_taken)
        return run is not None

    def check(self, job: Job) -> None:
        """Whether a job could run; waits for the stages, runs nothing.

        Raises:
            RequestRejected: it cannot.
        """
        limits = self.wait_until_ready()
        vocab_size = self._source.config.vocab_size
        prompt = prompt_token_ids(job, lambda: self.tokenizer, vocab_size)
        check_request(len(prompt), job.params, limits)

    def result_settings(self) -> dict[str, object]:
        """What results depend on beside the jobs; the same on any scheduler and partition."""
        return {
            "model": self._source.name,
            "model_digest": model_digest(self._source.folder),
            "dtype": self._setup.dtype,
            "quantization": self.config.quantization,
            # None for what a journal of an older version does not tell.
            "kv_cache_dtype": self._setup.kv_dtype if self._setup.rounds_kv else None,
            "load_format": None if self.config.load_format == "auto" else self.config.load_format,
            "max_model_len": self.config.max_model_len,
            "seed": self.config.seed,
        }

    def summary(self) -> RunSummary:
        """Figures of the latest run."""
        assert self._last_run is not None, "no run yet"
        return self._last_run.summary()

    def trace(self) -> RunTrace:
        """Every batch and stage span of the latest run."""
        assert self._last_run is not None and self._last_run.trace is not None, "no run yet"
        return self._last_run.trace

    def record(self) -> RunRecord | None:
        """Trace and figures of the run that is on, or of the latest; None where none computed."""
        run = self._open_run or self._last_run
        return run.record() if run is not None else None

    def use_scheduler(self, name: str) -> None:
        """Use another scheduler from the next run on; the stages stay as they are.

        Raises:
            ConfigError: there is none of that name.
        """
        self.config = replace(self.config, scheduler=name)

    # ---- life cycle

    def wait_until_ready(self) -> Limits:
        """Wait until every stage can run batches; returns the limits they imply."""
        if self._closed:
            raise StageFailed(0, "the engine is closed; make a new LLM")
        if self._limits is None:
            try:
                self._limits = self._setup.allocate(self._executor)
            except BaseException:
                self.close()
                raise
        return self._limits

    def close(self) -> None:
        """End all stage processes; may be called twice."""
        if not self._closed:
            self._closed = True
            self._executor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    # ---- details

    def _begin(self, jobs: Iterable[Job], on_progress: Callable[[Progress], None] | None) -> JobRun:
        if self._closed:
            raise StageFailed(0, "the engine is closed; make a new LLM")
        if self._open_run is not None:
            self._finish(self._open_run)  # its iterator was abandoned, not closed
        parts = RunParts(
            executor=self._executor,
            limits=self.wait_until_ready,
            scheduler=self.config.scheduler,
            new_policy=partial(make_scheduler, self.config.scheduler, self._setup.cost),
            cost=self._setup.cost,
            predictor=self.config.predictor(),
            forecasts=self._predictor.forecasts,
            tokenizer=lambda: self.tokenizer,
            source=self._source,
            partition=self.partition,
            seed=self.config.seed,
            max_restarts=self.config.max_restarts,
            prefix_caching=self.config.enable_prefix_caching,
            settings={**self.config.recorded(), "trained_predictor": self._predictor.kind},
        )
        self._open_run = JobRun(jobs, parts, on_progress)
        return self._open_run

    def _guarded(self, run: JobRun, results: Iterator[Result]) -> Iterator[Result]:
        """The results; the run is ended whether they are all taken, abandoned, or fail."""
        try:
            yield from results
        except (StageFailed, KeyboardInterrupt):
            self.close()  # what is in flight will not be waited for
            raise
        finally:
            self._finish(run)

    def _finish(self, run: JobRun) -> None:
        if run is not self._open_run:
            return  # an abandoned iterator, collected while a later run is on
        self._open_run, self._last_run = None, run
        if self._closed:
            run.stop_reading()
        else:
            run.settle()
        record = run.record() if self._timeline is not None else None
        if self._timeline is not None and record is not None:
            write_timeline(record, self._timeline)

    def _collect(self, jobs: list[Job]) -> list[RequestOutput]:
        # Closed here and now when a job is refused: the run must not linger until collection.
        with closing(self.submit_iter(jobs)) as results:
            outputs = [_output_of(result) for result in results]
        return sorted(outputs, key=lambda output: output.index)


def make_config(model: str, settings: dict[str, Any]) -> EngineConfig:
    """Settings as an EngineConfig. Raises ConfigError for unknown names too."""
    known = EngineConfig.__dataclass_fields__
    for name in settings:
        if name not in known:
            raise ConfigError(name, settings[name], f"unknown setting; use {', '.join(known)}")
    return EngineConfig(model, **settings)


def _output_of(result: JobResult) -> RequestOutput:
    if result.error is not None:
        raise result.error
    assert result.output is not None
    return result.output


def _prompt_jobs(prompts: Prompts, params: Params) -> list[Job]:
    if isinstance(prompts, str):
        many: Sequence[Any] = [prompts]
    elif len(prompts) > 0 and isinstance(prompts[0], int):
        many = [prompts]
    else:
        many = prompts
    if len(many) == 0:
        raise RequestRejected("prompts", prompts, "give at least one prompt")
    chosen = _params_for(len(many), params)
    return [
        Job(i, prompt, None, one) for i, (prompt, one) in enumerate(zip(many, chosen, strict=True))
    ]


def _params_for(count: int, params: Params) -> list[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    if len(params) != count:
        fix = f"give one SamplingParams for all, or one for each of the {count} prompts"
        raise RequestRejected("params", f"{len(params)} SamplingParams", fix)
    return list(params)
