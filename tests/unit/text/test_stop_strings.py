"""Stop strings across tokens, with min_tokens, and the text that is left."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdpipe.control.stop_condition import StopCondition
from tdpipe.core.request import Request
from tdpipe.core.sampling_params import SamplingParams
from tdpipe.text.stop_strings import StopStringChecker, first_stop, truncate_at_stop


class Letters:
    """Token 0 is special; other tokens stand for a string each."""

    def __init__(self, *texts):
        self.texts = ["", *texts]
        self.num_decoded = 0

    def decode(self, token_ids, skip_special_tokens=True):
        self.num_decoded += len(token_ids)
        special = "" if skip_special_tokens else "<end>"
        return "".join(self.texts[one] if one else special for one in token_ids)


def make_request(stop, min_tokens=0, request_id=0) -> Request:
    params = SamplingParams(stop=stop, min_tokens=min_tokens, max_tokens=1000)
    return Request(request_id, (1,), params, 1000, 0)


def run(checker, request, token_ids) -> int | None:
    """Outputs when the checker ended the request, or None."""
    for token_id in token_ids:
        request.output_token_ids.append(token_id)
        if checker.finished(request):
            return len(request.output_token_ids)
    return None


def final_text(checker, request, tokenizer) -> str:
    text = tokenizer.decode(request.output_token_ids)
    return truncate_at_stop(
        text, checker.matched(request.request_id), checker.matched_at(request.request_id)
    )


def test_a_stop_string_may_span_tokens():
    tokenizer = Letters("a", "S", "TO", "P!", "b")
    checker = StopStringChecker(tokenizer)
    request = make_request(("STOP",))
    assert run(checker, request, [1, 2, 3, 4, 5]) == 4
    assert checker.matched(0) == "STOP" and checker.matched_at(0) == 1
    assert final_text(checker, request, tokenizer) == "a"


def test_special_tokens_do_not_separate():
    assert run(StopStringChecker(Letters("S", "T")), make_request(("ST",)), [1, 0, 0, 2]) == 4


@pytest.mark.parametrize("stop", ["\n", "\n\n"])
def test_text_ends_at_the_first_of_several_in_one_token(stop):
    tokenizer = Letters("hello", "\n\n\n\n")
    checker = StopStringChecker(tokenizer)
    request = make_request((stop,))
    assert run(checker, request, [1, 2]) == 2
    assert final_text(checker, request, tokenizer) == "hello"
    assert truncate_at_stop("hello\n\n\n\n", stop) == "hello"


def test_the_earliest_beginning_wins_then_the_order_given():
    assert first_stop("xabcx", ("bc", "ab", "abc")) == (1, "ab")
    assert first_stop("xabcx", ("abc", "ab")) == (1, "abc")
    assert first_stop("xabcx", ("q",)) is None


def test_what_ends_before_min_tokens_is_passed_over():
    tokenizer = Letters("a", "b")
    checker = StopStringChecker(tokenizer)
    request = make_request(("a", "ab"), min_tokens=4)
    assert run(checker, request, [1, 2, 1, 2]) == 4  # "ab" ends with the fourth token
    assert checker.matched(0) == "ab"
    assert final_text(checker, request, tokenizer) == "ab"


def test_a_short_stop_string_in_the_tail_is_not_found_late():
    checker = StopStringChecker(Letters("a", "b", "c"))
    assert run(checker, make_request(("a", "xyzxyz"), min_tokens=2), [1, 2, 3, 2, 3]) is None
    assert checker.matched(0) is None and checker.matched_at(0) is None


def test_requests_are_apart_and_can_be_forgotten():
    checker = StopStringChecker(Letters("S", "T"))
    first, second = make_request(("ST",)), make_request(("ST",), request_id=1)
    assert run(checker, first, [1]) is None
    assert run(checker, second, [2]) is None
    assert run(checker, first, [2]) == 2
    assert checker.matched(0) == "ST" and checker.matched(1) is None
    checker.forget(0)
    checker.forget(0)
    assert checker.matched(0) is None


def test_it_is_a_stop_condition():
    condition: StopCondition = StopStringChecker(Letters("a"))
    assert condition.finished(make_request(("a",))) is False


@given(
    st.lists(st.integers(0, 5), max_size=20),
    st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
    st.integers(0, 6),
)
@settings(max_examples=400, deadline=None)
def test_the_first_completion_after_min_tokens_ends_it(token_ids, stop, min_tokens):
    tokenizer = Letters("a", "b", "c", "ab", "ca")
    checker = StopStringChecker(tokenizer)
    request = make_request(tuple(stop), min_tokens)
    ended = run(checker, request, token_ids)
    expected, old = None, ""
    for count in range(1, len(token_ids) + 1):
        text = tokenizer.decode(token_ids[:count])
        places = [
            place
            for one in stop
            for place in range(len(text))
            if text.startswith(one, place) and place + len(one) > len(old)
        ]
        if count >= min_tokens and places:
            expected = (count, text[: min(places)])
            break
        old = text
    assert ended == (expected and expected[0])
    if expected is not None:
        assert final_text(checker, request, tokenizer) == expected[1]


def test_cost_per_token_does_not_grow():
    tokenizer = Letters("a")
    checker = StopStringChecker(tokenizer)
    assert run(checker, make_request(("stop", "b")), [1] * 300) is None
    assert tokenizer.num_decoded < 10 * 300


def test_text_without_the_stop_string_stays():
    assert truncate_at_stop("abc", "x") == "abc"
    assert truncate_at_stop("a.b.c", ".", 2) == "a.b"
