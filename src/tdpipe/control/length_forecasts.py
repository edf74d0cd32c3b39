"""Which output length each request is expected to have: asks the predictor, teaches it, asks again.

Forecasts come from the front end with the request (known lengths, or predicted beside the run),
from the predictor on arrival, and from the last stage with the first token. Where the predictor
learns they are revised each time a quarter more requests have ended: for all that wait, and for
those that run on beyond what was expected. The first forecast stays on record beside the revised
one, since adaptive learns by itself how lengths relate to it (policies/length_survival).
"""

from collections.abc import Sequence

from tdpipe.core.engine_state import EngineState
from tdpipe.core.request import FinishReason, Request
from tdpipe.prediction.length_predictor import (
    LearningPredictor,
    LengthForecast,
    LengthPredictor,
    Prompt,
)
from tdpipe.tracing.forecast_log import ForecastLog

# Ends until the first lesson; each later one comes when so many times more have ended.
FIRST_LESSON = 8
LESSON_GROWTH = 1.25


class LengthForecasts:
    """The forecasts of one run's requests.

    `expected_tokens` are the output tokens that the unfinished requests are expected to have in
    all, `ended_tokens` those that the finished ones had; `log` holds forecast against truth.
    """

    def __init__(self, predictor: LengthPredictor) -> None:
        self.expected_tokens = 0
        self.ended_tokens = 0
        self.log = ForecastLog()
        self._predictor = predictor
        self._learner = predictor if isinstance(predictor, LearningPredictor) else None
        self._open: set[int] = set()  # unfinished requests whose length the predictor was asked for
        self._given: set[int] = set()  # unfinished requests whose length nobody revises
        self._stopped: list[int] = []
        self._cut: list[int] = []
        self._num_ended = 0
        self._next_lesson = FIRST_LESSON

    def expect(self, requests: Sequence[Request], given: Sequence[LengthForecast | None]) -> None:
        """Set the forecasts of new requests: those given, else the predictor's."""
        unknown: list[Request] = []
        for request, forecast in zip(requests, given, strict=True):
            if forecast is not None:
                _set(request, forecast)
                if forecast.is_given:
                    self._given.add(request.request_id)
            else:
                unknown.append(request)
                self._open.add(request.request_id)
        for request, forecast in zip(unknown, self._asked(unknown), strict=True):
            _set(request, forecast)
        self.expected_tokens += sum(request.predicted_tokens for request in requests)

    def update(self, request: Request, num_tokens: int) -> None:
        """Take a stage's forecast, made when it had read the prompt, if it is needed."""
        if request.request_id in self._given:
            return
        self.expected_tokens -= _expected(request)
        before = request.predicted_tokens
        request.predicted_tokens = max(1, min(num_tokens, request.max_tokens))
        # It says a mean only; how far lengths lie from their forecasts is as it was before.
        request.length_quantiles = tuple(
            min(request.max_tokens, max(1, length * request.predicted_tokens // before))
            for length in request.length_quantiles
        )
        self.expected_tokens += _expected(request)

    def ended(self, request: Request) -> None:
        """Learn from a request that has just finished."""
        self.expected_tokens -= _expected(request)
        self.ended_tokens += len(request.output_token_ids)
        if request.finish_reason is not FinishReason.ABORT:
            self.log.add(request.predicted_tokens, len(request.output_token_ids))
        self._given.discard(request.request_id)
        if self._learner is None or request.request_id not in self._open:
            return
        self._open.discard(request.request_id)
        if request.finish_reason is not FinishReason.ABORT:
            self._num_ended += 1
            stopped = request.finish_reason is FinishReason.STOP
            (self._stopped if stopped else self._cut).append(len(request.output_token_ids))

    def revise(self, state: EngineState) -> None:
        """Teach the predictor when it is time, and make the forecasts anew."""
        if self._learner is None or self._num_ended < self._next_lesson:
            return
        self._next_lesson = int(self._num_ended * LESSON_GROWTH) + 1
        running = [one for one in state.resident.values() if one.request_id in self._open]
        self._learner.learn(
            self._stopped, self._cut, [len(one.output_token_ids) for one in running]
        )
        self._stopped, self._cut = [], []
        waiting = [one for one in state.waiting.values() if one.request_id in self._open]
        for request, forecast in zip(waiting, self._asked(waiting), strict=True):
            self._revise(request, forecast.mean_tokens)
            request.length_quantiles = forecast.quantiles
        for request in running:
            generated = len(request.output_token_ids)
            if generated >= _expected(request):
                self._revise(request, self._learner.outlived(generated, request.max_tokens))

    def _revise(self, request: Request, num_tokens: int) -> None:
        self.expected_tokens -= _expected(request)
        request.revised_tokens = num_tokens
        self.expected_tokens += _expected(request)

    def _asked(self, requests: Sequence[Request]) -> list[LengthForecast]:
        prompts = [Prompt(r.request_id, r.prompt_token_ids, r.max_tokens) for r in requests]
        return self._predictor.predict(prompts) if prompts else []


def _set(request: Request, forecast: LengthForecast) -> None:
    request.predicted_tokens = max(1, min(forecast.mean_tokens, request.max_tokens))
    request.length_quantiles = forecast.quantiles


def _expected(request: Request) -> int:
    return request.revised_tokens or request.predicted_tokens
