"""The sampler against a slow one written out token by token, and against Hugging Face's rules."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from tdpipe.core.batch_plan import Sample, SequenceStart
from tdpipe.core.sampling_params import SamplingParams
from tdpipe.execution import sampler as sampler_module
from tdpipe.execution import token_draws
from tdpipe.execution.sampler import Sampler
from tdpipe.execution.token_draws import draw, uniform

CPU = torch.device("cpu")
VOCAB = 12
END = 3
QUICK = settings(max_examples=60, deadline=None)


def make_params(**changes) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 1000, **changes})


def make_sampler(requests, vocab=VOCAB) -> Sampler:
    """requests: (params, seed, prompt, output) of request 0, 1, ..."""
    sampler = Sampler(vocab, CPU)
    for request_id, (params, seed, prompt, output) in enumerate(requests):
        begin(sampler, request_id, params, seed, prompt, output)
    return sampler


def begin(sampler, request_id, params, seed, prompt, output, end_token_ids=(END,)):
    sampler.start(SequenceStart(request_id, len(prompt), params, seed, end_token_ids))
    sampler.see(request_id, tuple(prompt) + tuple(output), 0)


def sample_one(logits, params, seed=0, prompt=(0,), output=()) -> Sample:
    sampler = make_sampler([(params, seed, prompt, output)], len(logits))
    return sampler.sample([0], torch.tensor([logits]))[0]


def adjusted(logits, params, prompt, output) -> list[float]:
    """The rules for penalties and min_tokens, one token at a time."""
    result = list(logits)
    times = Counter(output)
    for token in range(len(logits)):
        if token == END and len(output) < params.min_tokens:
            result[token] = -math.inf
        if token in prompt or token in times:
            factor = params.repetition_penalty
            result[token] = result[token] / factor if result[token] > 0 else result[token] * factor
        if times[token]:
            result[token] -= params.frequency_penalty * times[token] + params.presence_penalty
    return result


def kept_tokens(logits, params, require=lambda clear: None) -> list[tuple[int, float]]:
    """(token, weight) that the filters keep, in the order in which a draw walks them.

    `require` is told of each comparison whether it is clear in float32 too.
    """
    top = max(logits)
    pairs = [(token, math.exp((x - top) / params.temperature)) for token, x in enumerate(logits)]
    if not (params.top_k > 0 or params.top_p < 1 or params.min_p > 0):
        return pairs
    pairs = sorted(pairs, key=lambda pair: (-logits[pair[0]], pair[0]))
    require(all(abs(weight - params.min_p) > 1e-5 for _, weight in pairs))
    pairs = [pair for pair in pairs if pair[1] > params.min_p]
    pairs = pairs[: params.top_k] if params.top_k > 0 else pairs
    if params.top_p == 1:
        return pairs
    share, total, kept = 0.0, sum(weight for _, weight in pairs), []
    for token, weight in pairs:
        require(abs(share - params.top_p) > 1e-5)
        if share < params.top_p:
            kept.append((token, weight))
        share += weight / total
    return kept


def slow_token(logits, params, seed, prompt, output) -> int:
    """The token that the documented rules give."""
    logits = adjusted(logits, params, prompt, output)
    if params.temperature == 0:
        best = sorted(logits)[-2:]
        assume(best[1] - best[0] > 1e-4)
        return logits.index(best[1])
    pairs = kept_tokens(logits, params, assume)
    number = uniform(seed, len(output)) * sum(weight for _, weight in pairs)
    reached = 0.0
    for token, weight in pairs:
        reached += weight
        assume(abs(reached - number) > 1e-5)
        if reached > number:
            return token
    raise AssertionError("the weights do not reach their sum")


token_ids = st.integers(0, VOCAB - 1)
# Quarters make equal logits likely.
logit_rows = st.lists(st.integers(-16, 24).map(lambda x: x / 4), min_size=VOCAB, max_size=VOCAB)
any_params = st.builds(
    make_params,
    temperature=st.sampled_from([0.0, 0.4, 1.0, 1.7]),
    top_k=st.sampled_from([0, 0, 1, 3, 7, 50]),
    top_p=st.sampled_from([1.0, 1.0, 0.15, 0.6, 0.97]),
    min_p=st.sampled_from([0.0, 0.0, 0.07, 0.33]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3, 0.8]),
    presence_penalty=st.sampled_from([0.0, 0.0, 0.7, -0.9]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.45, -0.3]),
    min_tokens=st.sampled_from([0, 0, 4]),
    logprobs=st.sampled_from([None, None, 0, 3]),
)
any_request = st.tuples(
    any_params,
    st.integers(-(2**70), 2**70),
    st.lists(token_ids, min_size=1, max_size=6).map(tuple),
    st.lists(token_ids, max_size=8).map(tuple),
)


@pytest.mark.parametrize("num_candidates", [3, 512])
@given(any_request, logit_rows)
@settings(max_examples=250, deadline=None)
def test_every_setting_does_what_the_rules_say(num_candidates, request, logits):
    params, seed, prompt, output = request
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_draws, "_NUM_CANDIDATES", num_candidates)
        got = sample_one(logits, params, seed, prompt, output).token_id
    assert got == slow_token(logits, params, seed, prompt, output)


@given(st.lists(st.tuples(any_request, logit_rows), min_size=1, max_size=6), st.randoms())
@QUICK
def test_a_token_does_not_depend_on_the_batch(rows, random):
    sampler = make_sampler([request for request, _ in rows])
    logits = torch.tensor([row for _, row in rows])
    given_logits = logits.clone()
    order = list(range(len(rows)))
    together = sampler.sample(order, logits)
    assert torch.equal(logits, given_logits)
    random.shuffle(order)
    shuffled = sampler.sample(order, logits[order])
    for place, row in enumerate(order):
        alone = sampler.sample([row], logits[row : row + 1])[0]
        assert together[row].token_id == shuffled[place].token_id == alone.token_id
        assert together[row].logprob == pytest.approx(alone.logprob)
        assert together[row].request_id == shuffled[place].request_id == row


def wide_logits(rows, vocab, scale):
    generator = torch.Generator().manual_seed(5)
    # Rounded, so that there are many equals, at the border of the candidates too.
    return (torch.randn(rows, vocab, generator=generator) * scale).round(decimals=1)


@pytest.mark.parametrize(
    "settings",
    [
        {"top_k": 40}, {"top_k": 511}, {"top_k": 512}, {"top_k": 900, "top_p": 0.4},
        {"top_p": 0.3}, {"top_p": 0.999}, {"min_p": 0.02}, {"min_p": 1e-4, "top_p": 0.9},
        {"top_p": 0.95, "temperature": 3.0}, {"min_p": 0.01, "top_k": 600, "temperature": 2.0},
    ],
)  # fmt: skip
@pytest.mark.parametrize("scale", [0.2, 1.0, 4.0])
def test_candidates_give_what_a_full_sort_gives(settings, scale, monkeypatch):
    logits = wide_logits(24, 3000, scale)
    params = [make_params(**settings)] * 24
    numbers = [uniform(row, 0) for row in range(23)] + [1 - 2.0**-53]
    quick = draw(logits, params, numbers)
    monkeypatch.setattr(token_draws, "_NUM_CANDIDATES", 3000)
    assert quick == draw(logits, params, numbers)


def test_large_batches_are_drawn_in_parts(monkeypatch):
    logits = wide_logits(10, 300, 2.0)
    params = [make_params(top_p=0.9) if row % 3 else make_params() for row in range(10)]
    numbers = [uniform(row, 1) for row in range(10)]
    whole = draw(logits, params, numbers)
    monkeypatch.setattr(token_draws, "_MAX_LOGITS", 700)
    assert draw(logits, params, numbers) == whole


# ---- random numbers


def chi_square(counts, expected) -> float:
    return sum((counts[i] - want) ** 2 / want for i, want in enumerate(expected))


@pytest.mark.parametrize(
    ("where", "settings"),
    [("seeds", {}), ("positions", {}), ("seeds", {"top_k": 5}), ("positions", {"top_p": 0.8})],
)
def test_draws_follow_the_distribution(where, settings):
    logits = [1.5, 0.0, -1.0, 0.5, 1.0, -0.5, 0.2, 0.9]
    params, num_draws = make_params(temperature=0.8, **settings), 20000
    numbers = [uniform(i, 3) if where == "seeds" else uniform(3, i) for i in range(num_draws)]
    rows = torch.tensor([logits]).expand(num_draws, -1)
    counts = Counter(draw(rows, [params] * num_draws, numbers))
    pairs = kept_tokens(logits, params)
    total = sum(weight for _, weight in pairs)
    assert set(counts) == {token for token, _ in pairs}
    by_place = [counts[token] for token, _ in pairs]
    expected = [num_draws * weight / total for _, weight in pairs]
    assert chi_square(by_place, expected) < 30  # 7 degrees of freedom at most: p about 1e-4


def test_uniform_numbers_are_spread_evenly_and_differ():
    numbers = [uniform(seed, position) for seed in range(100) for position in range(200)]
    counts = Counter(int(number * 20) for number in numbers)
    assert len(set(numbers)) == len(numbers)
    assert chi_square(counts, [1000.0] * 20) < 55  # 19 degrees of freedom
    pairs = Counter(
        (int(uniform(seed, i) * 4), int(uniform(seed, i + 1) * 4))
        for seed in range(100)
        for i in range(0, 160, 2)
    )
    assert chi_square([pairs[a, b] for a in range(4) for b in range(4)], [500.0] * 16) < 48


@pytest.mark.parametrize("bits", [0, 2**64 - 1])
def test_uniform_numbers_lie_strictly_between_0_and_1(bits, monkeypatch):
    monkeypatch.setattr(token_draws, "_mix", lambda state: bits)
    assert 0.0 < uniform(0, 0) < 1.0


@pytest.mark.parametrize("settings", [{}, {"top_k": 3}])
@pytest.mark.parametrize("number", [2.0**-53, 1 - 2.0**-53])
def test_extreme_numbers_give_tokens_that_have_weight(settings, number):
    logits = torch.tensor([[-math.inf, 2.0, 1.0, 2.0, -math.inf, -math.inf]])
    token = draw(logits, [make_params(**settings)], [number])[0]
    last = 2 if settings else 3  # walked by likelihood, or by id
    assert token == (1 if number < 0.5 else last)


@pytest.mark.parametrize("temperature", [1e-4, 1e-38, 1e-46, 1e-300])
@pytest.mark.parametrize("options", [{}, {"top_p": 0.9}])
def test_the_coldest_temperatures_are_greedy(temperature, options):
    logits = [1.0, 4.0, 3.99, -2.0] * 3
    params = make_params(temperature=temperature, **options)
    for seed in range(5):
        assert sample_one(logits, params, seed).token_id in (1, 5, 9)


def test_logits_that_are_no_numbers_hurt_only_their_own_row():
    good = [0.0, 1.0, 7.0, 0.5] * 3
    for options in ({}, {"top_p": 0.5}, {"top_k": 2}, {"temperature": 0.0}):
        params = make_params(**options)
        sampler = make_sampler([(params, 1, (0,), ()), (params, 2, (0,), ())])
        bad, fine = sampler.sample([0, 1], torch.tensor([[math.nan] * 12, good]))
        assert 0 <= bad.token_id < VOCAB
        assert fine.token_id == sample_one(good, params, 2).token_id


# ---- a request's life


class FakeModel:
    """Logits that depend on the tokens so far only."""

    def logits(self, tokens) -> torch.Tensor:
        generator = torch.Generator().manual_seed(hash(tuple(tokens)) % 2**31)
        return torch.randn(1, VOCAB, generator=generator) * 2


def generate(params, num_tokens, preempt_at=(), chunk=100, seed=11):
    """Tokens of a request that loses its place at some output lengths."""
    sampler, model = Sampler(VOCAB, CPU), FakeModel()
    prompt, output = (1, 2, 2, 5, 9), []
    seen = None
    for step in range(num_tokens):
        if step in preempt_at:
            sampler.release(0)
            seen = None
        if seen is None:
            sampler.start(SequenceStart(0, len(prompt), params, seed, (END,)))
            seen = 0
        tokens = prompt + tuple(output)
        while seen < len(tokens):
            sampler.see(0, tokens[seen : seen + chunk], seen)
            seen += len(tokens[seen : seen + chunk])
        output.append(sampler.sample([0], model.logits(tokens))[0].token_id)
    return output


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0},
        {"temperature": 0.0, "repetition_penalty": 1.4, "min_tokens": 9},
        {"top_p": 0.9, "frequency_penalty": 0.6, "presence_penalty": 0.3, "min_tokens": 12},
    ],
)
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_a_preempted_request_goes_on_as_if_nothing_had_happened(settings, chunk):
    params = make_params(**settings)
    expected = generate(params, 20)
    assert len(set(expected)) > 3
    assert generate(params, 20, preempt_at=(1, 7, 8, 15), chunk=chunk) == expected


def test_seed_decides_the_text():
    params = make_params(temperature=1.5)
    assert generate(params, 12, seed=1) == generate(params, 12, seed=1)
    assert generate(params, 12, seed=1) != generate(params, 12, seed=2)


def test_released_sequences_are_forgotten():
    sampler = make_sampler([(make_params(repetition_penalty=2.0), 0, (1,), (2,))])
    sampler.release(0)
    sampler.release(0)
    with pytest.raises(KeyError):
        sampler.sample([0], torch.zeros(1, VOCAB))


# ---- penalties, end tokens


@given(
    st.lists(token_ids, min_size=1, max_size=9),
    st.lists(token_ids, max_size=9),
    logit_rows,
    st.sampled_from([0.7, 1.2, 3.0]),
)
@QUICK
def test_repetition_penalty_is_that_of_hugging_face(prompt, output, logits, penalty):
    # Greedy choice, then choice without the best token and so on: compares the whole ranking.
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    expected = processor(torch.tensor([prompt + output]), torch.tensor([logits]))[0]
    params = make_params(temperature=0.0, repetition_penalty=penalty)
    sampler = make_sampler([(params, 0, prompt, output)])
    left, row = list(range(VOCAB)), torch.tensor([logits])
    while left:
        best = sampler.sample([0], row)[0].token_id
        assert expected[best] == max(expected[token] for token in left)
        left.remove(best)
        row[0, best] = -math.inf


def test_frequency_counts_and_presence_does_not_and_neither_sees_the_prompt():
    logits = [0.0] * VOCAB
    logits[4], logits[5], logits[6] = 3.0, 2.5, 1.2
    options = {"temperature": 0.0, "prompt": (4, 4, 4), "output": (5, 5)}

    def best(**settings):
        chosen = dict(options)
        params = make_params(temperature=chosen.pop("temperature"), **settings)
        return sample_one(logits, params, **chosen).token_id

    assert best(frequency_penalty=2.0, presence_penalty=2.0) == 4
    options["output"] = (4, 4, 5)
    assert best(frequency_penalty=0.4) == 4  # 2.2 against 2.1
    assert best(frequency_penalty=0.6) == 5  # 1.8 against 1.9
    assert best(presence_penalty=2.0) == 6  # 1.0 and 0.5 against 1.2
    assert best(presence_penalty=1.0) == 4


def test_end_tokens_wait_for_min_tokens():
    logits = [0.0] * VOCAB
    logits[END], logits[7] = 9.0, 5.0
    for temperature in (0.0, 1e-3):
        params = make_params(temperature=temperature, min_tokens=2)
        chosen = [sample_one(logits, params, output=(1,) * n).token_id for n in range(4)]
        assert chosen == [7, 7, END, END]


def test_end_tokens_that_the_model_does_not_have_are_ignored():
    sampler = Sampler(VOCAB, CPU)
    begin(sampler, 0, make_params(temperature=0.0, min_tokens=5), 0, (1,), (), (END, VOCAB, 10**6))
    assert sampler.sample([0], torch.eye(VOCAB)[END : END + 1])[0].token_id != END


# ---- log probabilities


@given(any_request, logit_rows, st.integers(0, VOCAB + 3))
@QUICK
def test_log_probabilities_are_those_of_the_raw_logits(request, logits, count):
    params, seed, prompt, output = request
    values = {name: getattr(params, name) for name in params.__dataclass_fields__}
    sample = sample_one(
        logits, SamplingParams(**{**values, "logprobs": count}), seed, prompt, output
    )
    expected = torch.tensor(logits).log_softmax(-1)
    assert sample.logprob == pytest.approx(float(expected[sample.token_id]), abs=1e-5)
    best = sorted(expected.tolist(), reverse=True)[:count]
    assert [value for _, value in sample.top_logprobs] == pytest.approx(best, abs=1e-5)
    assert len({token for token, _ in sample.top_logprobs}) == min(count, VOCAB)
    for token, value in sample.top_logprobs:
        assert value == pytest.approx(float(expected[token]), abs=1e-5)


def test_each_request_gets_the_log_probabilities_it_asked_for():
    wanted = [None, 2, 0, None, 5]
    requests = [(make_params(temperature=0.0, logprobs=n), 0, (1,), ()) for n in wanted]
    samples = make_sampler(requests).sample([0, 1, 2, 3, 4], torch.randn(5, VOCAB))
    assert [one.logprob is None for one in samples] == [True, False, False, True, False]
    assert [len(one.top_logprobs) for one in samples] == [0, 2, 0, 0, 5]


# ---- cost


class Recorder(TorchDispatchMode):
    """Notes which tensor operations run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.__name__.split(".")[0])
        return func(*args, **(kwargs or {}))


def operations(*params) -> list[str]:
    sampler = make_sampler([(one, 0, (1,), ()) for one in params])
    with Recorder() as recorder:
        sampler.sample(list(range(len(params))), torch.zeros(len(params), VOCAB))
    return recorder.names[1:]  # without the making of the logits


@pytest.fixture
def looks(monkeypatch):
    """How often the highest logits are looked for."""
    found, highest = [], sampler_module._highest
    monkeypatch.setattr(
        sampler_module, "_highest", lambda logits: found.append(0) or highest(logits)
    )
    return found


def test_a_greedy_batch_costs_one_look(looks):
    assert set(operations(*[make_params(temperature=0.0)] * 4)) <= {"detach"}  # a view
    assert len(looks) == 1


def test_the_first_of_equal_logits_is_chosen():
    logits = torch.randint(0, 3, (50, VOCAB), generator=torch.Generator().manual_seed(0)).float()
    assert sampler_module._highest(logits) == logits.argmax(dim=-1).tolist()


def test_rows_without_filters_are_not_sorted(looks):
    plain = operations(make_params(temperature=0.7), make_params(temperature=0.0))
    assert len(looks) == 1 and not {"sort", "topk"} & set(plain)
    assert {"sort", "topk"} & set(operations(make_params(top_k=2)))


def test_only_penalised_requests_keep_tokens():
    sampler = make_sampler([(make_params(), 0, (1,), ()), (make_params(top_k=3), 0, (1,), ())])
    assert all(sequence.counts is None for sequence in sampler._sequences.values())
