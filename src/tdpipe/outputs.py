"""What users give and get: jobs in, outputs and progress out."""

from collections.abc import Sequence
from dataclasses import dataclass

from tdpipe.core.errors import TdpipeError
from tdpipe.core.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """An output token, its natural log probability, and the likeliest alternatives."""

    token_id: int
    token: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class CompletionOutput:
    """One completion of a prompt.

    Attributes:
        index: 0 to n - 1.
        text: without end-of-text tokens and without the stop string that ended it.
        token_ids: as sampled, the ending token included.
        finish_reason: stop, length or abort, as in OpenAI's API.
        logprobs: one per token where they were asked for.
        stop_reason: the stop string or stop token id that ended it; None for end-of-text.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str
    logprobs: list[TokenLogprob] | None = None
    stop_reason: str | int | None = None


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """All completions of the prompt at position `index` of the input."""

    index: int
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]


@dataclass(frozen=True, slots=True)
class Job:
    """One request as a caller names it: a prompt (text or token ids) or a chat.

    `length_hint` is how many tokens another run, or another model, generated for it. `place` is the
    number from which, with the engine's seed, a job without a seed of its own gets one; None is its
    place among the jobs of the run. A job with an `error` is not run and comes
    back with it.
    """

    key: object
    prompt: str | Sequence[int] | None
    messages: list[dict[str, object]] | None
    params: SamplingParams
    length_hint: int | None = None
    place: int | None = None
    error: TdpipeError | None = None


@dataclass(frozen=True, slots=True)
class JobResult:
    """A job's output, or the error that kept it from running."""

    key: object
    output: RequestOutput | None
    error: TdpipeError | None


@dataclass(frozen=True, slots=True)
class BatchInFlight:
    """A batch on its way, and the stage that has it or will take it up next, by last reports."""

    batch_id: int
    phase: str
    stage: int
    prefill_tokens: int
    num_decodes: int


@dataclass(frozen=True, slots=True)
class Progress:
    """A moment of a run; times in seconds, shares between 0 and 1.

    Attributes:
        num_finished: jobs that ended, failed ones included.
        num_requests: jobs known so far.
        num_prompt_tokens: of the finished jobs.
        num_output_tokens: of all requests, finished or not.
        phase: of the batch submitted last; empty before the first.
        num_waiting, num_running: requests of the engine without and with KV blocks.
        prefilled_tokens: prompt (and, again, output) tokens computed by prefills.
        recomputed_tokens: those of them that were computed again after a preemption or restart.
        entered_prompt_tokens: prompts of the requests whose first token is there.
        ended: (finish reason, number of the engine's requests that ended so).
        recent_tokens_per_s: output tokens over the last seconds.
        left_s: time until the known requests end, from their predicted lengths; None at first.
        in_flight: batches on their way, oldest first.
        lane_sizes: requests in the latest decode batches, one for each stage.
        stage_busy_shares: of the last seconds.
    """

    num_finished: int
    num_requests: int
    num_prompt_tokens: int
    num_output_tokens: int
    phase: str
    kv_used_share: float
    elapsed_s: float
    num_failed: int = 0
    num_restarts: int = 0
    num_preemptions: int = 0
    num_waiting: int = 0
    num_running: int = 0
    prefilled_tokens: int = 0
    recomputed_tokens: int = 0
    entered_prompt_tokens: int = 0
    ended: tuple[tuple[str, int], ...] = ()
    recent_tokens_per_s: float = 0.0
    left_s: float | None = None
    in_flight: tuple[BatchInFlight, ...] = ()
    lane_sizes: tuple[int, ...] = ()
    stage_busy_shares: tuple[float, ...] = ()

    @property
    def output_tokens_per_s(self) -> float:
        """Over the whole run."""
        return self.num_output_tokens / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def recomputed_share(self) -> float:
        """Of all tokens computed."""
        computed = self.prefilled_tokens + self.num_output_tokens
        return min(1.0, self.recomputed_tokens / computed) if computed else 0.0

    @property
    def lane_imbalance(self) -> float:
        """The largest decode batch less the smallest, as a share of their mean."""
        if len(self.lane_sizes) < 2:
            return 0.0
        mean = sum(self.lane_sizes) / len(self.lane_sizes)
        return (max(self.lane_sizes) - min(self.lane_sizes)) / mean


@dataclass(frozen=True, slots=True)
class StreamUpdate:
    """New text of a streamed completion; `output` comes with the last update."""

    text_delta: str
    finished: bool
    output: RequestOutput | None = None
