"""Output lengths that are known or predicted before a request reaches the engine.

Runs on the intake's thread, while stages load or work: prediction delays no batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tdpipe.outputs import Job
from tdpipe.prediction.length_predictor import LengthForecast, LengthPredictor, Prompt

# Stands for a max_tokens that is known only when the stages are up.
NO_LIMIT = 1 << 30


@dataclass(frozen=True, slots=True)
class IntakeForecasts:
    """Forecasts for jobs as they are read.

    Attributes:
        predictor: for jobs whose length is not known; None leaves them to the engine, which asks
            its own predictor.
        limits_tell: whether a job that ignores end-of-text is known to run to its max_tokens; not
            so where the user named a predictor that says otherwise.
        chunk: prompts that are predicted together at most.
    """

    predictor: LengthPredictor | None = None
    limits_tell: bool = True
    chunk: int = 256

    def of(self, jobs: Sequence[tuple[Job, tuple[int, ...]]]) -> list[LengthForecast | None]:
        """Forecasts for (job, prompt token ids), in order; not yet cut at what the context leaves.

        What is known comes first: a job that ignores end-of-text runs to max_tokens, and one with
        a hint is taken to run as long as the hint says.
        """
        prompts = [
            Prompt(
                index,
                token_ids,
                job.params.max_tokens or NO_LIMIT,
                not job.params.ignore_eos,
                job.length_hint,
            )
            for index, (job, token_ids) in enumerate(jobs)
        ]
        found = [self._known(prompt) for prompt in prompts]
        if self.predictor is not None:
            unknown = [prompt for prompt in prompts if found[prompt.request_id] is None]
            for start in range(0, len(unknown), self.chunk):
                part = unknown[start : start + self.chunk]
                for prompt, forecast in zip(part, self.predictor.predict(part), strict=True):
                    found[prompt.request_id] = forecast
        return found

    def _known(self, prompt: Prompt) -> LengthForecast | None:
        if self.limits_tell and not prompt.ends_early:
            return LengthForecast.certain(prompt.max_tokens)
        if prompt.hint is not None:
            return LengthForecast.certain(min(prompt.hint, prompt.max_tokens))
        return None
