"""Collects the engine's events into finished outputs, one per job."""

from array import array
from collections import Counter
from dataclasses import dataclass, field

from tdpipe.control.control_plane import OutputEvent
from tdpipe.core.batch_plan import Sample
from tdpipe.core.request import FinishReason
from tdpipe.frontend.job_intake import AcceptedJob
from tdpipe.outputs import CompletionOutput, RequestOutput, TokenLogprob
from tdpipe.text.stop_strings import StopStringChecker, truncate_at_stop
from tdpipe.text.tokenizer import Tokenizer


@dataclass(slots=True)
class _OpenJob:
    accepted: AcceptedJob
    samples: dict[int, list[Sample]] = field(default_factory=dict)
    finished: dict[int, CompletionOutput] = field(default_factory=dict)


class OutputCollector:
    """Keeps the tokens of unfinished jobs; text is made once, when a completion ends.

    `prompt_tokens`, `output_tokens` are those of the engine's finished requests, one after the
    other, n for a job of n completions, `cached_tokens` how much of each one's prompt was there
    before; `ended` counts them by finish reason, `num_entered_tokens` the prompt tokens of requests
    whose first token is there.
    """

    def __init__(
        self,
        accepted: dict[int, AcceptedJob],
        tokenizer: Tokenizer,
        stop_checker: StopStringChecker,
        eos_token_ids: tuple[int, ...],
    ) -> None:
        self.num_output_tokens = 0
        self.num_prompt_tokens = 0
        self.num_finished = 0
        self.num_entered_tokens = 0
        self.ended: Counter[str] = Counter()
        self.prompt_tokens, self.output_tokens = array("l"), array("l")
        self.cached_tokens = array("l")
        self._accepted = accepted
        self._tokenizer = tokenizer
        self._stop_checker = stop_checker
        self._eos = eos_token_ids
        self._open: dict[int, _OpenJob] = {}  # by first request id

    def lengths(self) -> list[tuple[int, int]]:
        """(prompt tokens, output tokens) of each finished request."""
        return list(zip(self.prompt_tokens, self.output_tokens, strict=True))

    def take(self, event: OutputEvent) -> tuple[AcceptedJob, RequestOutput] | None:
        """Add one event; the job and its output if that completes it."""
        accepted = self._accepted.get(event.request_id)
        if accepted is None:
            return None  # of a job that was dropped
        job = self._open.setdefault(accepted.first_request_id, _OpenJob(accepted))
        samples = job.samples.setdefault(event.request_id, [])
        if event.sample is not None:
            if not samples:
                self.num_entered_tokens += len(accepted.prompt_token_ids)
            samples.append(event.sample)
            self.num_output_tokens += 1
        if event.finish_reason is None:
            return None
        self.ended[str(event.finish_reason)] += 1
        if samples and event.finish_reason is not FinishReason.ABORT:
            self.prompt_tokens.append(len(accepted.prompt_token_ids))
            self.output_tokens.append(len(samples))
            self.cached_tokens.append(event.cached_tokens)
        number = event.request_id - accepted.first_request_id
        job.finished[number] = self._completion(number, event.request_id, job, event.finish_reason)
        del self._accepted[event.request_id], job.samples[event.request_id]
        if len(job.finished) < accepted.job.params.n:
            return None
        del self._open[accepted.first_request_id]
        self.num_finished += 1
        self.num_prompt_tokens += len(accepted.prompt_token_ids)
        outputs = [job.finished[index] for index in sorted(job.finished)]
        output = RequestOutput(accepted.index, list(accepted.prompt_token_ids), outputs)
        return accepted, output

    def drop(self, request_id: int) -> AcceptedJob | None:
        """Forget a request's job, all its completions; None if that has been done."""
        accepted = self._accepted.get(request_id)
        if accepted is None:
            return None
        for number in range(accepted.job.params.n):
            self._accepted.pop(accepted.first_request_id + number, None)
            self._stop_checker.forget(accepted.first_request_id + number)
        self._open.pop(accepted.first_request_id, None)
        return accepted

    def _completion(
        self, number: int, request_id: int, job: _OpenJob, reason: FinishReason
    ) -> CompletionOutput:
        params = job.accepted.job.params
        samples = job.samples[request_id]
        token_ids = [sample.token_id for sample in samples]
        stop_reason: str | int | None = None
        shown = token_ids
        stop_at = 0
        if params.stop:
            stop_reason = self._stop_checker.matched(request_id)
            stop_at = self._stop_checker.matched_at(request_id) or 0
            self._stop_checker.forget(request_id)
        if reason is FinishReason.STOP and stop_reason is None and token_ids:
            shown = token_ids[:-1]
            ended_by_eos = token_ids[-1] in self._eos and not params.ignore_eos
            stop_reason = None if ended_by_eos else token_ids[-1]
        text = self._tokenizer.decode(shown)
        if isinstance(stop_reason, str):
            text = truncate_at_stop(text, stop_reason, stop_at)
        logprobs = None if params.logprobs is None else [self._logprob(one) for one in samples]
        return CompletionOutput(number, text, token_ids, str(reason), logprobs, stop_reason)

    def _logprob(self, sample: Sample) -> TokenLogprob:
        assert sample.logprob is not None, sample
        top = tuple((token, self._token_text(token), lp) for token, lp in sample.top_logprobs)
        token = self._token_text(sample.token_id)
        return TokenLogprob(sample.token_id, token, sample.logprob, top)

    def _token_text(self, token_id: int) -> str:
        return self._tokenizer.decode([token_id], skip_special_tokens=False)
