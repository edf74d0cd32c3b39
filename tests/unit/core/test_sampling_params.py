"""Every bad sampling value is refused with its field, value and fix."""

import pytest

from tdpipe.core.errors import RequestRejected
from tdpipe.core.sampling_params import SamplingParams

BAD = [
    ("n", 0), ("n", "2"), ("n", True), ("max_tokens", 0), ("max_tokens", -3), ("max_tokens", 1.5),
    ("min_tokens", -1), ("min_tokens", 99), ("temperature", -0.1), ("temperature", float("nan")),
    ("temperature", "hot"), ("top_k", -2), ("top_p", 0.0), ("top_p", 1.1), ("min_p", -0.1),
    ("min_p", 2), ("repetition_penalty", 0.0), ("presence_penalty", 2.5),
    ("frequency_penalty", -2.5), ("seed", "x"), ("stop", ("",)), ("stop", (3,)),
    ("stop_token_ids", (-1,)), ("ignore_eos", 1), ("logprobs", 21), ("logprobs", -1),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), BAD)
def test_bad_values(field, value):
    with pytest.raises(RequestRejected) as caught:
        SamplingParams(**{field: value})
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}=")
    assert "\n" not in str(caught.value)


def test_defaults_and_normalisation():
    params = SamplingParams(stop="end", stop_token_ids=[3])
    assert params.stop == ("end",) and params.stop_token_ids == (3,)
    assert SamplingParams(temperature=0).is_greedy and not params.is_greedy
    assert SamplingParams(max_tokens=None).max_tokens is None


def test_long_values_are_cut_in_messages():
    error = RequestRejected("prompt", "x" * 1000, "shorten it")
    assert len(str(error)) < 200
