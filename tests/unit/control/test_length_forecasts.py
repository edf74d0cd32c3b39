"""Where forecasts come from, and when they are revised."""

from factories import make_request, make_state
from tdpipe.control.length_forecasts import FIRST_LESSON, LengthForecasts
from tdpipe.core.request import FinishReason
from tdpipe.prediction.constant import ConstantPredictor
from tdpipe.prediction.length_predictor import LengthForecast


class Learner:
    """Forecasts what it was told last; keeps its lessons."""

    def __init__(self):
        self.lessons = []

    def predict(self, prompts):
        return [LengthForecast(40 - len(self.lessons), 40, (1, 2)) for _ in prompts]

    def learn(self, stopped, cut, alive):
        self.lessons.append((list(stopped), list(cut), list(alive)))

    def outlived(self, generated, max_tokens):
        return generated + 7


def finish(forecasts, request, num_tokens, reason=FinishReason.STOP):
    request.output_token_ids[:] = [5] * num_tokens
    request.finish_reason = reason
    forecasts.ended(request)


def test_given_forecasts_come_first():
    forecasts = LengthForecasts(ConstantPredictor(30))
    requests = [make_request(i, 4, 100) for i in range(3)]
    given = [None, LengthForecast(70, 80, (60, 80)), LengthForecast(900, 900)]
    forecasts.expect(requests, given)
    assert [one.predicted_tokens for one in requests] == [30, 70, 100]
    assert requests[1].length_quantiles == (60, 80)
    forecasts.update(requests[1], 55)
    # The quantiles lie around the new mean as they did around the old one.
    assert requests[1].predicted_tokens == 55 and requests[1].length_quantiles == (47, 62)
    certain = make_request(9, 4, 100)
    forecasts.expect([certain], [LengthForecast.certain(60)])
    forecasts.update(certain, 5)  # who knows the length is not told it
    assert certain.predicted_tokens == 60
    forecasts.update(requests[1], 5000)
    assert requests[1].predicted_tokens == 100 and requests[1].length_quantiles == (85, 100)


def test_what_is_left_beyond_the_forecast():
    forecasts = LengthForecasts(ConstantPredictor(30))
    requests = [make_request(i, 4, 500) for i in range(2)]
    forecasts.expect(requests, [LengthForecast(40, 90, (10, 35, 60, 90)), None])
    left = []
    for generated in (0, 39, 40, 59, 60, 89, 90, 91):
        for one in requests:
            one.output_token_ids[:] = [5] * generated
        left.append(requests[0].predicted_remaining)
    assert left == [40, 1, 35, 16, 30, 1, 0, 0]
    assert requests[1].predicted_remaining == 0  # of a point nothing is left


def test_a_learner_is_taught_and_asked_again():
    learner = Learner()
    forecasts = LengthForecasts(learner)
    requests = [make_request(i, 4, 100) for i in range(FIRST_LESSON + 5)]
    known, aborted, waiting, running, beyond = requests[FIRST_LESSON:]
    certain = [LengthForecast(50, 50) if one is known else None for one in requests]
    forecasts.expect(requests, certain)
    state = make_state()
    state.waiting = {one.request_id: one for one in (known, waiting)}
    state.resident = {one.request_id: one for one in (running, beyond)}
    running.output_token_ids[:] = [5] * 3
    beyond.output_token_ids[:] = [5] * 41
    for one in requests[: FIRST_LESSON - 1]:
        finish(forecasts, one, 9)
    finish(forecasts, aborted, 2, FinishReason.ABORT)
    forecasts.revise(state)
    assert learner.lessons == []
    finish(forecasts, requests[FIRST_LESSON - 1], 100, FinishReason.LENGTH)
    forecasts.revise(state)
    assert learner.lessons == [([9] * (FIRST_LESSON - 1), [100], [3, 41])]
    assert (waiting.predicted_remaining, waiting.unrevised_remaining) == (39, 40)
    assert (running.predicted_remaining, beyond.predicted_remaining) == (37, 7)
    assert (known.predicted_remaining, known.revised_tokens) == (50, 0)
    forecasts.revise(state)  # nothing new
    assert len(learner.lessons) == 1


def test_who_does_not_learn_is_left_alone():
    forecasts = LengthForecasts(ConstantPredictor(30))
    requests = [make_request(i, 4, 100) for i in range(20)]
    forecasts.expect(requests, [None] * 20)
    for one in requests:
        finish(forecasts, one, 2)
    forecasts.revise(make_state())
    assert all(one.revised_tokens == 0 for one in requests)
