"""Turns jobs into engine requests on a thread, beside the stages' start and the run itself."""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice

from tdpipe.control.arrivals import QueuedArrivals
from tdpipe.control.control_plane import NewRequest
from tdpipe.control.request_check import check_request
from tdpipe.core.errors import RequestRejected, TdpipeError
from tdpipe.core.limits import Limits
from tdpipe.frontend.intake_forecasts import IntakeForecasts
from tdpipe.frontend.job_feed import JobFeed
from tdpipe.outputs import Job
from tdpipe.prediction.length_predictor import LengthForecast
from tdpipe.text.tokenizer import Tokenizer

# Jobs, and tokens of their prompts, that are read and not finished, at most. Schedulers choose
# among so many; what comes after is read when it can soon run, so that memory does not grow with
# the input.
MAX_OPEN_JOBS = 16_384
MAX_OPEN_TOKENS = 8_000_000
# A full window is filled again when this share of it is left, not job by job.
REFILL_SHARE = 0.9
# Seeds travel as signed integers of 64 bits.
SEED_MASK = (1 << 63) - 1


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
    """Reads jobs as they are needed, tokenises and checks them, and feeds them to `arrivals`.

    Tokenising and forecasting lengths begin at once; requests are handed over from `open` on, when
    the limits are known. `ended` tells of each job that is over and makes room for another.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        tokenizer: Callable[[], Tokenizer],
        vocab_size: int,
        eos_token_ids: tuple[int, ...],
        seed: int,
        forecasts: IntakeForecasts | None = None,
        max_open_jobs: int = MAX_OPEN_JOBS,
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
        self._max_open_jobs = max_open_jobs
        self._open_jobs = self._open_tokens = 0
        self._room = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="job-intake", daemon=True)
        self._thread.start()

    def open(self, limits: Limits) -> None:
        """Let requests through; called once, when the stages are up."""
        self._limits = limits
        self._opened.set()

    def ended(self, job: AcceptedJob | RejectedJob) -> None:
        """A job is over: it no longer counts as open."""
        num_tokens = len(job.prompt_token_ids) if isinstance(job, AcceptedJob) else 0
        with self._room:
            self._open_jobs -= 1
            self._open_tokens -= num_tokens
            self._room.notify()

    def stop(self) -> None:
        """Read no more jobs; those that were read and not handed over are dropped."""
        with self._room:
            self._cancelled = True
            self._room.notify()
        if isinstance(self._jobs, JobFeed):
            self._jobs.end()  # the thread may be waiting for a job that never comes
        self._opened.set()

    def cancel(self) -> None:
        """Stop reading jobs and wait for the thread to end."""
        self.stop()
        self._thread.join()

    def _run(self) -> None:
        try:
            if isinstance(self._jobs, JobFeed):
                # While the thread waits for the next job, those before it must be handed over.
                self._opened.wait()
            for index, job in enumerate(self._jobs):
                if self._cancelled:
                    return
                self.num_jobs += 1
                self._tokenize(index, job)
                if self._opened.is_set():
                    self._hand_over()
                elif len(self._pending) >= len(self._foreseen) + self._forecasts.chunk:
                    self._foresee()
                if self._is_full():
                    self._wait_for_room()
            self._foresee()
            self._opened.wait()
            self._hand_over()
        except BaseException as error:  # the caller's iterable failed: raised in its own thread
            self.failure = error
        finally:
            self.arrivals.end()

    def _is_full(self, share: float = 1.0) -> bool:
        jobs, tokens = share * self._max_open_jobs, share * MAX_OPEN_TOKENS
        return self._open_jobs >= jobs or self._open_tokens >= tokens

    def _wait_for_room(self) -> None:
        self._foresee()
        self._opened.wait()
        self._hand_over()
        with self._room:
            self._room.wait_for(lambda: self._cancelled or not self._is_full(REFILL_SHARE))

    def _tokenize(self, index: int, job: Job) -> None:
        prompt: tuple[int, ...] = ()
        try:
            prompt = prompt_token_ids(job, self._tokenizer, self._vocab_size)
            self._pending.append(_ReadJob(index, job, prompt))
        except TdpipeError as error:
            self.rejected.append(RejectedJob(index, job, error))
        with self._room:
            self._open_jobs += 1
            self._open_tokens += len(prompt)

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
                with self._room:
                    self._open_tokens -= len(read.prompt_token_ids)
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
            params, seed = replace(job.params, n=1), self._seed_of(read, number)
            self.arrivals.put(NewRequest(request_id, prompt, params, seed, self._eos, forecast))

    def _seed_of(self, read: _ReadJob, number: int) -> int:
        """Of a completion: its own, or one that follows from where the job stands in the input."""
        seed = read.job.params.seed
        if seed is None:
            place = read.index if read.job.place is None else read.job.place
            seed = (self._seed * 1_000_003 + place) * 65_537
        return (seed + number) & SEED_MASK


def prompt_token_ids(
    job: Job, tokenizer: Callable[[], Tokenizer], vocab_size: int
) -> tuple[int, ...]:
    """A job's prompt as the model reads it.

    Raises:
        RequestRejected: it is empty, of a wrong type, cannot be tokenised, or the job names token
            ids that the model does not have.
        TdpipeError: the job's own error, if it has one.
    """
    if job.error is not None:
        raise job.error
    for token_id in job.params.stop_token_ids:
        _check_token_id("stop_token_ids", token_id, vocab_size)
    if job.messages is not None:
        return tuple(tokenizer().encode_chat(job.messages))
    if isinstance(job.prompt, str):
        if not job.prompt:
            raise RequestRejected("prompt", "", "give at least one character")
        return tuple(tokenizer().encode(job.prompt))
    if not isinstance(job.prompt, (list, tuple)):
        fix = "give a string or a list of token ids"
        raise RequestRejected("prompt", job.prompt, fix)
    for token_id in job.prompt:
        _check_token_id("prompt", token_id, vocab_size)
    return tuple(job.prompt)


def _check_token_id(field: str, token_id: object, vocab_size: int) -> None:
    whole = isinstance(token_id, int) and not isinstance(token_id, bool)
    if not whole or not 0 <= token_id < vocab_size:  # type: ignore[operator]
        raise RequestRejected(field, token_id, f"use token ids from 0 to {vocab_size - 1}")
