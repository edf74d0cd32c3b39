"""A request's life: waiting, resident (has blocks), finished. Written by the control plane only."""

from dataclasses import dataclass, field
from enum import StrEnum

from tdpipe.core.sampling_params import SamplingParams


class FinishReason(StrEnum):
    """Why a request ended, in OpenAI's words where there is one."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


@dataclass(slots=True)
class Request:
    """One sequence to complete.

    `num_scheduled` counts the tokens (prompt, then output) sent to the stages since the request
    last got blocks, or found there; a preemption sets it back to 0 and keeps the output. The first
    `num_shared_blocks` of `block_ids` are cached for others too; `num_cached_tokens` were found
    when the request was first admitted. `prefill_target` is how many tokens its present prefill
    covers. `admission` counts up with every request that gets blocks, so of two residents the older
    one has the smaller number. `max_tokens` is already cut to what max_model_len leaves.
    `end_token_ids` are the tokens that end it.

    `predicted_tokens` is the forecast of its output, `length_quantiles` the forecast's distribution
    where one is known (prediction/length_predictor); `revised_tokens` is what the run so far makes
    of it, 0 for nothing new.
    """

    request_id: int
    prompt_token_ids: tuple[int, ...]
    params: SamplingParams
    max_tokens: int
    seed: int
    end_token_ids: tuple[int, ...] = ()
    arrival_s: float = 0.0
    predicted_tokens: int = 1
    length_quantiles: tuple[int, ...] = ()
    revised_tokens: int = 0
    output_token_ids: list[int] = field(default_factory=list)
    block_ids: list[int] = field(default_factory=list)
    num_shared_blocks: int = 0
    num_cached_tokens: int = 0
    num_scheduled: int = 0
    prefill_target: int = 0
    num_in_flight: int = 0
    admission: int = 0
    num_preemptions: int = 0
    aborted: bool = False
    finish_reason: FinishReason | None = None

    @property
    def num_tokens(self) -> int:
        """Context so far: prompt and generated tokens."""
        return len(self.prompt_token_ids) + len(self.output_token_ids)

    @property
    def num_unscheduled(self) -> int:
        """Known tokens that no batch has covered yet."""
        return self.num_tokens - self.num_scheduled

    @property
    def is_prefilling(self) -> bool:
        """Resident, with a part of its prefill still to be sent (chunked prefill)."""
        return self.num_scheduled < self.prefill_target

    @property
    def is_decodable(self) -> bool:
        """Its last token has come back and the next one may be computed."""
        return not self.is_prefilling and self.num_in_flight == 0

    @property
    def predicted_remaining(self) -> int:
        """Output tokens still expected (paper 3.2: max(0, predicted - generated)).

        Beyond what was predicted: the mean of the forecast's quantiles that are not outlived yet,
        where it has any. The paper's predictor names a point only.
        """
        generated = len(self.output_token_ids)
        expected = self.revised_tokens or self.predicted_tokens
        if expected <= generated:
            longer = [length for length in self.length_quantiles if length > generated]
            expected = round(sum(longer) / len(longer)) if longer else generated
        return expected - generated

    @property
    def unrevised_remaining(self) -> int:
        """The same by the first forecast, for who learns from the run by himself."""
        return max(0, self.predicted_tokens - len(self.output_token_ids))

    def tokens_between(self, start: int, stop: int) -> tuple[int, ...]:
        """Token ids at positions start .. stop - 1 of prompt followed by output."""
        num_prompt = len(self.prompt_token_ids)
        if start >= num_prompt and stop - start == 1:  # a decode; by far the most frequent call
            return (self.output_token_ids[start - num_prompt],)
        prompt = self.prompt_token_ids[start : min(stop, num_prompt)]
        output = self.output_token_ids[max(0, start - num_prompt) : max(0, stop - num_prompt)]
        return (*prompt, *output) if output else prompt
