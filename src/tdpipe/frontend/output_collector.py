"""Collects the engine's events into finished outputs, one per job."""

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

    `lengths` are the (prompt tokens, output tokens) of the engine's finished requests, n for a job
    of n completions; `cached_tokens` says for each how much of its prompt was there before.
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
        self.lengths: list[tuple[int, int]] = []
        self.cached_tokens: list[int] = []
        self._accepted = accepted
        self._tokenizer = tokenizer
        self._stop_checker = stop_checker
        self._eos = eos_token_ids
        self._open: dict[int, _OpenJob] = {}  # by first request id

    def take(self, event: OutputEvent) -> tuple[AcceptedJob, RequestOutput] | None:
        """Add one event; the job and its output if that completes it."""
        accepted = self._accepted[event.request_id]
        job = self._open.setdefault(accepted.first_request_id, _OpenJob(accepted))
        samples = job.samples.setdefault(event.request_id, [])
        if event.sample is not None:
            samples.append(event.sample)
            self.num_output_tokens += 1
        if event.finish_reason is None:
            return None
        if samples and event.finish_reason is not FinishReason.ABORT:
            self.lengths.append((len(accepted.prompt_token_ids), len(samples)))
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
