"""Turns jobs into engine requests on a thread, beside the stages' start and the run itself."""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice

from tdpipe.control.arrivals import QueuedArrivals
from tdpipe.control.control_plane import NewRequest, check_request
from tdpipe.core.errors import RequestRejected, TdpipeError
from tdpipe.core.limits import Limits
from tdpipe.core.sampling_params import SamplingParams
from tdpipe.frontend.intake_forecasts import IntakeForecasts
from tdpipe.outputs import Job
from tdpipe.prediction.length_predictor import LengthForecast
from tdpipe.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class AcceptedJob:
    """A job whose n requests have the ids first_request_id .. first_request_id + n - 1."""

    index: int
    job: Job
    prompt_token_ids: tuple[int, ...]
    first_request_id: int


@dataclass(frozen=True, slots=True)
class RejectedJob:
    """A job that cannot run."""

    index: int
    job: Job
    error: TdpipeError


@dataclass(frozen=True, slots=True)
class _ReadJob:
    """A job that is tokenised and not handed over yet."""

    index: int
    job: Job
    prompt_token_ids: tuple[int, ...]


class JobIntake:
    """Reads jobs lazily, tokenises and checks them, and feeds them to `arrivals`.

    Tokenising and forecasting lengths begin at once; requests are handed over from `open` on, when
    the limits are known.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        tokenizer: Callable[[], Tokenizer],
        vocab_size: int,
        eos_token_ids: tuple[int, ...],
        seed: int,
        forecasts: IntakeForecasts | None = None,
    ) -> None:
        self.arrivals = QueuedArrivals()
        self.accepted: dict[int, AcceptedJob] = {}  # by request id
        self.rejected: deque[RejectedJob] = deque()
        self.num_jobs = 0
        self.failure: BaseException | None = None
        self._jobs = jobs
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos = eos_token_ids
        self._seed = seed
        self._limits: Limits | None = None
        self._opened = threading.Event()
        self._cancelled = False
        self._forecasts = forecasts or IntakeForecasts()
        self._pending: deque[_ReadJob] = deque()
        self._foreseen: deque[LengthForecast | None] = deque()  # of the first pending ones
        self._ids = itertools.count()
        self._thread = threading.Thread(target=self._run, name="job-intake", daemon=True)
        self._thread.start()

    def open(self, limits: Limits) -> None:
        """Let requests through; called once, when the stages are up."""
        self._limits = limits
        self._opened.set()

    def cancel(self) -> None:
        """Stop reading jobs and wait for the thread to end."""
        self._cancelled = True
        self._opened.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            for index, job in enumerate(self._jobs):
                if self._cancelled:
                    return
                self.num_jobs += 1
                self._tokenize(index, job)
                if self._opened.is_set():
                    self._hand_over()
                elif len(self._pending) >= len(self._foreseen) + self._forecasts.chunk:
                    self._foresee()
            self._foresee()
            self._opened.wait()
            self._hand_over()
        except BaseException as error:  # the caller's iterable failed: raised in its own thread
            self.failure = error
        finally:
            self.arrivals.end()

    def _tokenize(self, index: int, job: Job) -> None:
        try:
            self._pending.append(_ReadJob(index, job, self._prompt_token_ids(job)))
        except TdpipeError as error:
            self.rejected.append(RejectedJob(index, job, error))

    def _foresee(self) -> None:
        """Forecast the pending jobs that are not forecast yet, together."""
        fresh = islice(self._pending, len(self._foreseen), None)
        self._foreseen += self._forecasts.of([(one.job, one.prompt_token_ids) for one in fresh])

    def _hand_over(self) -> None:
        self._foresee()
        while self._pending and not self._cancelled:
            read, forecast = self._pending.popleft(), self._foreseen.popleft()
            assert self._limits is not None
            try:
                most = check_request(len(read.prompt_token_ids), read.job.params, self._limits)
            except TdpipeError as error:
                self.rejected.append(RejectedJob(read.index, read.job, error))
                continue
            self._accept(read, forecast.at_most(most) if forecast is not None else None)

    def _accept(self, read: _ReadJob, forecast: LengthForecast | None) -> None:
        job, prompt = read.job, read.prompt_token_ids
        ids = [next(self._ids) for _ in range(job.params.n)]
        accepted = AcceptedJob(read.index, job, prompt, ids[0])
        for request_id in ids:  # before any is put: its events may come at once
            self.accepted[request_id] = accepted
        for number, request_id in enumerate(ids):
            params, seed = replace(job.params, n=1), self._seed_of(request_id, number, job.params)
            self.arrivals.put(NewRequest(request_id, prompt, params, seed, self._eos, forecast))

    def _seed_of(self, request_id: int, number: int, params: SamplingParams) -> int:
        own = params.seed
        return self._seed * 1_000_003 + request_id if own is None else own + number

    def _prompt_token_ids(self, job: Job) -> tuple[int, ...]:
        if job.messages is not None:
            return tuple(self._tokenizer().encode_chat(job.messages))
        if isinstance(job.prompt, str):
            if not job.prompt:
                raise RequestRejected("prompt", "", "give at least one character")
            return tuple(self._tokenizer().encode(job.prompt))
        if not isinstance(job.prompt, (list, tuple)):
            fix = "give a string or a list of token ids"
            raise RequestRejected("prompt", job.prompt, fix)
        for token_id in job.prompt:
            whole = isinstance(token_id, int) and not isinstance(token_id, bool)
            if not whole or not 0 <= token_id < self._vocab_size:
                fix = f"use token ids from 0 to {self._vocab_size - 1}"
                raise RequestRejected("prompt", token_id, fix)
        return tuple(job.prompt)
