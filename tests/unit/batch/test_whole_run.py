"""Batch runs through intake, engine and journal; only the stages are fake."""

import io
import itertools
import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine_without_stages import EngineWithoutStages, SeededExecutor
from factories import make_limits
from tdpipe.batch.batch_file import BYTE_ORDER_MARK
from tdpipe.batch.batch_input import BatchInput
from tdpipe.batch.batch_job import BatchJob
from tdpipe.batch.journal import open_journal
from tdpipe.batch.strict_check import bad_lines
from tdpipe.core.errors import RequestRejected, StageFailed, TooManyErrors
from tdpipe.frontend import job_intake

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def engine():
    return EngineWithoutStages()


def line(custom_id, url=COMPLETIONS, method="POST", **body):
    record = {"custom_id": custom_id, "method": method, "url": url, "body": body}
    return json.dumps(record).encode() + b"\n"


def lines(count, **body):
    body = {"prompt": "one two", "max_tokens": 3, "temperature": 0.0, **body}
    return [line(f"line {number}", **body) for number in range(count)]


def run(engine, text, path, **job_settings):
    """One run of an input; returns its outcome and all records of the output."""
    batch = BatchInput(io.BytesIO(text))
    with open_journal(str(path), batch.index, {}, False) as journal:
        job = BatchJob("m", lambda message: None, **job_settings)
        outcome = job.run(engine, batch, journal)
    return outcome, [json.loads(one) for one in path.read_bytes().splitlines()]


def texts(records):
    return {
        record["custom_id"]: [choice["text"] for choice in record["response"]["body"]["choices"]]
        for record in records
    }


class Crash(Exception):
    pass


def crash_after(count):
    """An on_answer that raises at the count-th answer."""
    left = itertools.count(1 - count)

    def on_answer(custom_id, text):
        if next(left) == 0:
            raise Crash

    return on_answer


def test_a_resumed_run_ends_as_one_that_was_not_stopped(engine, tmp_path):
    text = b"".join(lines(40, temperature=1.0, n=2))
    _, whole = run(engine, text, tmp_path / "whole.jsonl")
    path, chance = tmp_path / "parts.jsonl", random.Random(0)
    num_stops = 4
    for _ in range(num_stops):
        with pytest.raises(Crash):
            run(engine, text, path, on_answer=crash_after(chance.randrange(1, 9)))
        torn = path.read_bytes()
        path.write_bytes(torn + torn[: chance.randrange(1, 80)])
    outcome, records = run(engine, text, path)
    assert outcome.num_earlier >= num_stops and outcome.num_succeeded == 40 == len(records)
    assert texts(records) == texts(whole)


def test_finishing_early_leaves_whole_lines_only(tmp_path):
    # Room for 8 requests at once: the others wait, and are left.
    engine = EngineWithoutStages(make_limits(num_blocks=8, max_model_len=64))
    text, path = b"".join(lines(30, max_tokens=8)), tmp_path / "out.jsonl"

    def stop(custom_id, answer):
        engine.finish_early(60.0)

    outcome, records = run(engine, text, path, on_answer=stop)
    assert 0 < outcome.num_succeeded < 20 and outcome.num_left == 30 - outcome.num_succeeded
    assert {record["response"]["body"]["usage"]["completion_tokens"] for record in records} == {8}
    outcome, records = run(engine, text, path)
    assert outcome.num_left == 0 and len(texts(records)) == 30 == len(records)


def test_no_time_to_finish(engine, tmp_path):
    def stop(custom_id, answer):
        assert engine.finish_early(-1.0)

    with pytest.raises(KeyboardInterrupt):
        run(engine, b"".join(lines(300)), tmp_path / "out.jsonl", on_answer=stop)


def test_more_errors_than_allowed(engine, tmp_path):
    text = b"".join([*lines(5), *[b"{broken\n"] * 4, *lines(9)[5:]])
    with pytest.raises(TooManyErrors, match="3 lines failed, more than the 2 allowed"):
        run(engine, text, tmp_path / "out.jsonl", max_errors=2)
    outcome, records = run(engine, text, tmp_path / "out.jsonl", max_errors=4)
    assert (outcome.num_succeeded, outcome.num_failed, len(records)) == (9, 4, 13)


def test_a_small_window_runs_everything(engine, tmp_path, monkeypatch):
    """More lines than are open at once, also where none of them can run."""
    monkeypatch.setattr(job_intake, "MAX_OPEN_TOKENS", 20)
    text = b"".join(lines(200) + [b"{broken\n"] * 100)
    outcome, records = run(engine, text, tmp_path / "out.jsonl")
    assert (outcome.num_succeeded, outcome.num_failed, len(records)) == (200, 100, 300)


def test_strict_lists_what_the_tokenizer_and_the_limits_find(engine):
    def check(job):
        if job.prompt == "too long":
            raise RequestRejected("prompt", job.prompt, "cut it")

    good, bad, broken = line("a", prompt="x"), line("b", prompt="too long"), b"[]\n"
    found = list(bad_lines(BatchInput(io.BytesIO(good + bad + broken)).lines(), check))
    assert [(one.number, one.custom_id) for one in found] == [(2, "b"), (3, None)]


# ---- anything may stand in an input

HELLO = [{"role": "user", "content": "hello"}]
BAD_BODIES = [
    {"prompt": "x", "max_tokens": 0}, {"prompt": "x", "max_tokens": -1},
    {"prompt": "x", "max_tokens": "9"}, {"prompt": "x", "max_tokens": 1.5},
    {"prompt": "x", "max_tokens": 10**30}, {"prompt": "x", "max_tokens": 10_000},
    {"prompt": "x", "min_tokens": 10**18}, {"prompt": "x", "min_tokens": True},
    {"prompt": "x", "temperature": "hot"}, {"prompt": "x", "temperature": [1]},
    {"prompt": "x", "top_p": 0}, {"prompt": "x", "top_p": 2}, {"prompt": "x", "min_p": -1},
    {"prompt": "x", "top_k": 0.5}, {"prompt": "x", "top_k": 10**25},
    {"prompt": "x", "seed": "a"}, {"prompt": "x", "seed": 10**40},
    {"prompt": "x", "n": 0}, {"prompt": "x", "n": {}}, {"prompt": "x", "stop": [5]},
    {"prompt": "x", "stop": [""]}, {"prompt": "x", "stop": {"a": 1}},
    {"prompt": "x", "stop_token_ids": [-1]}, {"prompt": "x", "stop_token_ids": [10**7]},
    {"prompt": "x", "stop_token_ids": ["a"]}, {"prompt": "x", "stop_token_ids": 5},
    {"prompt": "x", "logprobs": 99}, {"prompt": "x", "logprobs": "yes"},
    {"prompt": "x", "presence_penalty": 9}, {"prompt": "x", "repetition_penalty": 0},
    {"prompt": "x", "frequency_penalty": None, "ignore_eos": "no"}, {"prompt": "x", "suffix": "y"},
    {"prompt": "x", "stream": True}, {"prompt": "x", "best_of": 3}, {"prompt": "x", "model": 5},
    {"prompt": "word " * 2000}, {"prompt": ""}, {"prompt": []}, {"prompt": None}, {"prompt": {}},
    {"prompt": [""]}, {"prompt": [[]]}, {"prompt": [1, "a"]}, {"prompt": [[1], "a", None]},
    {"prompt": [-5]}, {"prompt": [10**9]}, {"prompt": [True]}, {"prompt": [1.5]}, {},
]  # fmt: skip
BAD_CHATS = [
    {"messages": None}, {"messages": []}, {"messages": "hello"}, {"messages": [None]},
    {"messages": [{"role": "user"}]}, {"messages": [{"content": "x"}]},
    {"messages": [{"role": 5, "content": "x"}]}, {"messages": [{"role": "user", "content": 5}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
    {"messages": [{"role": "user", "content": "word " * 2000}]},
    {"messages": HELLO, "tools": [{}]}, {"messages": HELLO, "top_logprobs": 2},
    {"messages": HELLO, "logprobs": True, "top_logprobs": 50},
    {"messages": HELLO, "response_format": {"type": "json_object"}},
    {"messages": HELLO, "max_completion_tokens": 0}, {"messages": HELLO, "logit_bias": {"1": 2}},
]  # fmt: skip
BAD_TEXTS = [
    b"{", b"}", b"null", b"5", b'"text"', b"[]", b"{}", b"\x00", b"\xff\xfe", b"\xc3(", b"nan",
    b"{'custom_id': 'x'}", b'{"custom_id": "x",}', b'{"custom_id": "x"} {"custom_id": "y"}',
    b'{"custom_id": "x"', b"[" * 100_000, b'{"a":' * 50_000, b"1" * 6000, b'{"custom_id": NaN}',
    b'{"custom_id": "\\ud800"}', b'{"custom_id": "\xed\xa0\x80"}', b"data: {}", b"custom_id,body",
    b'{"custom_id": 1e999}', b'{"custom_id": "x", "body": ' + b"9" * 5000 + b"}",
]  # fmt: skip
BAD_IDS = [None, "", 5, True, ["x"], {"x": 1}]
BAD_LINES = [
    *(line("x", **body) for body in BAD_BODIES),
    *(line("x", url=CHAT, **body) for body in BAD_CHATS),
    *(text + b"\n" for text in BAD_TEXTS),
    *(line(custom_id, prompt="x") for custom_id in BAD_IDS),
    line("x", url="/v1/embeddings", input="x"), line("x", url=None, prompt="x"),
    line("x", method="GET", prompt="x"), line("x", method=None, prompt="x"),
    json.dumps({"custom_id": "x", "url": CHAT, "body": "text"}).encode() + b"\n",
]  # fmt: skip


def test_the_corpus_of_bad_lines(engine, tmp_path):
    """Each becomes one error line that names its number; the good lines around it are answered."""
    assert len(BAD_LINES) >= 60
    good = lines(len(BAD_LINES), max_tokens=2)
    renamed = [one.replace(b'"x"', b'"bad %d"' % i, 1) for i, one in enumerate(BAD_LINES)]
    text = b"".join(one for pair in zip(good, renamed, strict=True) for one in pair)
    outcome, records = run(engine, text, tmp_path / "out.jsonl")
    failed = [record for record in records if record["error"]]
    fine = {2 * place + 2 for place in range(len(BAD_LINES))} - {
        record["error"]["line"] for record in failed
    }
    assert not fine, [renamed[number // 2 - 1][:90] for number in fine]
    assert (outcome.num_succeeded, outcome.num_failed) == (len(good), len(BAD_LINES))
    assert len(records) == 2 * len(BAD_LINES)
    assert all(record["error"]["message"] and record["error"]["code"] for record in failed)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    ["prompt", "messages", "max_tokens", "n", "stop", "stop_token_ids", "seed", "top_k", "model",
     "logprobs", "min_tokens", "temperature", "top_p", "stream", "user", "colour", "best_of"]
)  # fmt: skip
BODIES = st.dictionaries(FIELDS, ANY_JSON, max_size=5)
ANY_LINE = st.one_of(
    st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b"").replace(b"\r", b"")),
    ANY_JSON.map(lambda value: json.dumps(value).encode()),
    st.builds(
        lambda custom_id, url, body, prompt: json.dumps(
            {"custom_id": custom_id, "url": url, "body": {"prompt": prompt, **body}}
        ).encode(),
        st.text(max_size=2) | ANY_JSON,
        st.sampled_from([CHAT, COMPLETIONS]) | ANY_JSON,
        BODIES,
        st.text(max_size=12),
    ),
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(ANY_LINE, min_size=1, max_size=8))
def test_any_input_gets_a_line_for_each_line(engine, tmp_path_factory, raw):
    path = tmp_path_factory.mktemp("fuzz") / "out.jsonl"
    text = b"\n".join(raw)
    outcome, records = run(engine, text, path)
    wanted = sum(bool(one.strip()) for one in text.removeprefix(BYTE_ORDER_MARK).split(b"\n"))
    assert len(records) == wanted == outcome.num_succeeded + outcome.num_failed


class PoisonedExecutor(SeededExecutor):
    """Its stage raises at the request with the seed 66."""

    def wait(self, until_s):
        for piece in self.queue[0].slices if self.queue else ():
            if self.seeds[piece.request_id] == 66:
                raise StageFailed(1, "out of memory", batch_id=self.queue[0].batch_id)
        return super().wait(until_s)


def test_a_request_that_makes_stages_fail_becomes_an_error_line(tmp_path):
    """All completions of its line go; those of the others stay."""
    text = lines(12)
    text[5] = line("line 5", prompt="one", max_tokens=6, n=3, seed=65, temperature=1.0)
    _, records = run(EngineWithoutStages(), b"".join(text), tmp_path / "clean")
    expected = {key: value for key, value in texts(records).items() if key != "line 5"}
    engine = EngineWithoutStages()
    engine.executor_class = PoisonedExecutor
    outcome, records = run(engine, b"".join(text), tmp_path / "faulty")
    assert (outcome.num_succeeded, outcome.num_failed) == (11, 1)
    [failed] = [record for record in records if record["error"]]
    assert failed["custom_id"] == "line 5" and failed["error"]["code"] == "server_error"
    assert "given up" in failed["error"]["message"]
    assert texts([record for record in records if not record["error"]]) == expected
    summary = engine.run.summary()
    assert summary.num_restarts == 2 and summary.num_failed == 1
    assert "stages started again: 2" in str(summary)
    assert engine.run._control.state.pool.num_used == 0
