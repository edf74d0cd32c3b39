"""What is known of a length before the engine is asked, and what is asked before it."""

import pytest

from tdpipe.core.limits import Limits
from tdpipe.core.sampling_params import SamplingParams
from tdpipe.frontend.intake_forecasts import NO_LIMIT, IntakeForecasts
from tdpipe.frontend.job_intake import JobIntake
from tdpipe.outputs import Job
from tdpipe.prediction.length_predictor import LengthForecast

LIMITS = Limits(num_stages=1, block_size=16, num_blocks=8, max_model_len=64)


class Counting:
    """Forecasts the number of prompt tokens, and keeps what it was asked for."""

    def __init__(self):
        self.asked = []

    def predict(self, prompts):
        self.asked.append([len(prompt.token_ids) for prompt in prompts])
        return [LengthForecast(len(p.token_ids), p.max_tokens, (1, 99)) for p in prompts]


def job(num_tokens, hint=None, **params):
    params = SamplingParams(**{"max_tokens": None, **params})
    return Job(num_tokens, [7] * num_tokens, None, params, hint)


def forecasts_of(predictor, *jobs):
    return IntakeForecasts(predictor, chunk=2).of([(one, tuple(one.prompt)) for one in jobs])


def test_known_lengths_are_not_asked_for():
    counting = Counting()
    found = forecasts_of(
        counting,
        job(1, max_tokens=9, ignore_eos=True),
        job(2, hint=50, max_tokens=40),
        job(3, max_tokens=30),
        job(4, hint=5),
        job(5),
        job(6),
    )
    assert counting.asked == [[3, 5], [6]]
    assert [one.mean_tokens for one in found] == [9, 40, 3, 5, 5, 6]
    assert [one.p90_tokens for one in found] == [9, 40, 30, 5, NO_LIMIT, NO_LIMIT]


def test_a_predictor_that_the_user_named_goes_before_limits_but_not_before_hints():
    jobs = [job(1, max_tokens=9, ignore_eos=True), job(2, hint=5, ignore_eos=True)]
    told = IntakeForecasts(limits_tell=False).of([(one, tuple(one.prompt)) for one in jobs])
    assert told[0] is None and told[1].mean_tokens == 5


def test_without_a_predictor_the_engine_is_left_to_ask():
    found = forecasts_of(None, job(1), job(2, hint=3), job(3, ignore_eos=True))
    assert found[0] is None and found[1].mean_tokens == 3 and found[2].mean_tokens == NO_LIMIT


@pytest.mark.parametrize("opens_first", [True, False])
def test_requests_carry_their_forecasts(opens_first):
    counting = Counting()
    jobs = [job(3, max_tokens=20), job(70), job(4, max_tokens=5, ignore_eos=True, n=2), job(5)]

    def no_tokenizer():
        raise AssertionError("prompts are token ids")

    intake = JobIntake(jobs, no_tokenizer, 100, (), 0, IntakeForecasts(counting, chunk=2))
    if opens_first:
        intake.open(LIMITS)
    intake._thread.join(0.2 if not opens_first else 10)
    intake.open(LIMITS)
    intake._thread.join(10)
    found = {r.request_id: r.forecast for r in intake.arrivals.take(0.0)}
    assert found == {
        0: LengthForecast(10, 20, (1, 20)),
        1: LengthForecast.certain(5),
        2: LengthForecast.certain(5),
        3: LengthForecast(30, 59, (1, 59)),  # 64 tokens of context, 5 of them the prompt
    }
    assert [one.job.key for one in intake.rejected] == [70]
    if not opens_first:
        assert counting.asked == [[3, 70], [5]]
