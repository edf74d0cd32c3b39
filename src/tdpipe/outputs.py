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
class Progress:
    """A moment of a run; num_requests counts those known so far."""

    num_finished: int
    num_requests: int
    num_prompt_tokens: int
    num_output_tokens: int
    phase: str
    kv_used_share: float
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class StreamUpdate:
    """New text of a streamed completion; `output` comes with the last update."""

    text_delta: str
    finished: bool
    output: RequestOutput | None = None
