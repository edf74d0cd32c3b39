"""Batch files: every bad line fails alone, every good one comes back in OpenAI's form."""

import io
import json

import pytest

from tdpipe.batch.batch_file import BadLine, BatchLine, read_lines
from tdpipe.batch.batch_input import BatchInput
from tdpipe.batch.batch_job import BatchJob
from tdpipe.batch.batch_paths import open_input, open_output
from tdpipe.batch.finished_lines import FinishedLines
from tdpipe.batch.journal import Journal
from tdpipe.batch.openai_request import CHAT, COMPLETIONS, parse_body
from tdpipe.core.errors import ConfigError, RequestRejected
from tdpipe.outputs import CompletionOutput, JobResult, RequestOutput, TokenLogprob

HELLO = [{"role": "user", "content": "hello"}]


def line(custom_id="a", url=CHAT, body=None, **changes):
    default = {"messages": HELLO} if url == CHAT else {"prompt": "hello"}
    record = {
        "custom_id": custom_id, "method": "POST", "url": url,
        "body": default if body is None else body, **changes,
    }  # fmt: skip
    return json.dumps(record).encode() + b"\n"


class FakeEngine:
    """Answers each job with its own prompt; refuses prompts that say so; last one first."""

    def submit_iter(self, jobs, on_progress=None):
        for job in reversed(list(jobs)):
            if job.error is not None:
                yield JobResult(job.key, None, job.error)
                continue
            if job.prompt == "refuse me":
                yield JobResult(job.key, None, RequestRejected("prompt", "x", "too long"))
                continue
            text = str(job.prompt or job.messages[-1]["content"])
            logprobs = [TokenLogprob(5, "t", -0.5, ((5, "t", -0.5), (6, "u", -1.5)))]
            wanted = None if job.params.logprobs is None else logprobs
            outputs = [
                CompletionOutput(i, f"{text}!{i}", [5], "stop", wanted) for i in range(job.params.n)
            ]
            yield JobResult(job.key, RequestOutput(0, [1, 2, 3], outputs), None)


def run_all(*lines, **settings):
    """Result lines in order, the warnings, and the outcome."""
    warnings = []
    output = io.BytesIO()
    batch = BatchInput(io.BytesIO(b"".join(lines)))
    journal = Journal(output, FinishedLines(batch.index.last_line))
    job = BatchJob("some-model", warnings.append, **settings)
    outcome = job.run(FakeEngine(), batch, journal)
    return [json.loads(text) for text in output.getvalue().splitlines()], warnings, outcome


def run(*lines):
    """The same with the results by custom_id."""
    records, warnings, outcome = run_all(*lines)
    return {record["custom_id"]: record for record in records}, warnings, outcome


def test_chat_and_completion_round_trip():
    results, warnings, outcome = run(
        line("a"),
        b"\n",
        line("b", COMPLETIONS, {"prompt": ["x", "y"], "n": 2, "model": "named"}),
    )
    assert (outcome.num_succeeded, outcome.num_failed, warnings) == (2, 0, [])
    chat = results["a"]["response"]
    assert chat["status_code"] == 200 and results["a"]["error"] is None
    body = chat["body"]
    assert body["object"] == "chat.completion" and body["model"] == "some-model"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "hello!0"}
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    body = results["b"]["response"]["body"]
    assert body["object"] == "text_completion" and body["model"] == "named"
    assert [choice["text"] for choice in body["choices"]] == ["x!0", "x!1", "y!0", "y!1"]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]


def test_logprobs_in_both_forms():
    results, _, _ = run(
        line("a", body={"messages": HELLO, "logprobs": True, "top_logprobs": 2}),
        line("b", COMPLETIONS, {"prompt": "x", "logprobs": 2}),
    )
    content = results["a"]["response"]["body"]["choices"][0]["logprobs"]["content"][0]
    assert content["token"] == "t" and content["bytes"] == [116]
    assert [top["logprob"] for top in content["top_logprobs"]] == [-0.5, -1.5]
    logprobs = results["b"]["response"]["body"]["choices"][0]["logprobs"]
    assert logprobs["token_logprobs"] == [-0.5] and logprobs["text_offset"] == [0]


BAD_LINES = [
    (b"{broken\n", None, "line 2: not valid JSON"),
    (b"\xff\xfe{}\n", None, "line 2: not UTF-8"),
    (b"[1]\n", None, "line 2: give a JSON object"),
    (b"[" * 100000 + b"\n", None, "line 2: "),
    (line(None), None, "custom_id=None: line 2: give a string"),
    (line("good"), "good", "already used on line 1"),
    (line("x", "/v1/embeddings"), "x", "use /v1/chat/completions or /v1/completions"),
    (line("x", method="GET"), "x", "use POST"),
    (line("x", body=[]), "x", "body=[]: line 2: give an object"),
    (line("x", body={}), "x", "messages=None"),
    (line("x", body={"messages": [{"role": "user"}]}), "x", "messages[0].content"),
    (line("x", body={"messages": HELLO, "max_tokens": 0}), "x", "max_tokens=0"),
    (line("x", body={"messages": HELLO, "temperature": -1}), "x", "temperature=-1"),
    (line("x", body={"messages": HELLO, "top_p": "high"}), "x", "top_p='high'"),
    (line("x", body={"messages": HELLO, "stop": 5}), "x", "stop=5"),
    (line("x", body={"messages": HELLO, "tools": [{}]}), "x", "tools=[{}]: not supported"),
    (line("x", body={"messages": HELLO, "stream": True}), "x", "stream=True: not supported"),
    (line("x", body={"messages": HELLO, "logit_bias": {"5": 1}}), "x", "logit_bias"),
    (line("x", body={"messages": HELLO, "response_format": {"type": "json_object"}}), "x", "text"),
    (line("x", body={"messages": HELLO, "top_logprobs": 3}), "x", "set logprobs to true"),
    (line("x", body={"messages": HELLO, "logprobs": 3}), "x", "use true or false"),
    (line("x", COMPLETIONS, {"prompt": []}), "x", "prompt=[]"),
    (line("x", COMPLETIONS, {"prompt": ""}), "x", "prompt=''"),
    (line("x", COMPLETIONS, {"prompt": "p", "echo": True}), "x", "echo=True"),
    (line("x", COMPLETIONS, {"prompt": "refuse me"}), "x", "prompt='x': too long"),
]


@pytest.mark.parametrize(("bad", "custom_id", "message"), BAD_LINES)
def test_a_bad_line_fails_alone(bad, custom_id, message):
    records, _, outcome = run_all(line("good"), bad, line("also good"))
    assert (outcome.num_succeeded, outcome.num_failed) == (2, 1)
    [failed] = [record for record in records if record["error"]]
    assert failed["response"] is None and failed["custom_id"] == custom_id
    assert message in failed["error"]["message"]
    assert failed["error"]["line"] == 2
    assert failed["error"]["param"] == failed["error"]["message"].split("=")[0]


def test_one_refused_prompt_of_several_fails_its_line_once():
    results, _, outcome = run(line("x", COMPLETIONS, {"prompt": ["fine", "refuse me", "fine too"]}))
    assert outcome.num_failed == 1 and results["x"]["error"]["param"] == "prompt"


def test_unknown_fields_are_named_once():
    body = {"messages": HELLO, "colour": 1}
    _, warnings, outcome = run(line("a", body=body), line("b", body=body))
    assert warnings == ["line 1: unknown field 'colour' is ignored"]
    assert outcome.num_succeeded == 2


def test_defaults_of_the_endpoints():
    assert parse_body(CHAT, {"messages": HELLO}).params.max_tokens is None
    assert parse_body(COMPLETIONS, {"prompt": "x"}).params.max_tokens == 16
    newer = parse_body(CHAT, {"messages": HELLO, "max_completion_tokens": 9, "stop": "x"})
    assert newer.params.max_tokens == 9 and newer.params.stop == ("x",)
    ids = parse_body(COMPLETIONS, {"prompt": [1, 2]})
    assert ids.prompts == [[1, 2]]


def test_text_parts_are_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    parsed = parse_body(CHAT, {"messages": [{"role": "user", "content": parts}]})
    assert parsed.messages[0]["content"] == "a\nb"
    image = [{"type": "image_url", "image_url": "x"}]
    with pytest.raises(RequestRejected, match="only text parts"):
        parse_body(CHAT, {"messages": [{"role": "user", "content": image}]})


def test_reading_is_lazy():
    def lines():
        yield line("a")
        raise AssertionError("read ahead")

    reader = read_lines(lines(), first_use=lambda custom_id: 1)
    assert isinstance(next(reader), BatchLine)


def test_line_numbers_count_blank_lines():
    [_, bad] = BatchInput(io.BytesIO(line("a") + b"  \n" + b"{\n")).lines()
    assert isinstance(bad, BadLine) and bad.number == 3


def test_paths(tmp_path):
    whole = tmp_path / "in.jsonl"
    whole.write_text("{}\n")
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    for path, message in [
        (tmp_path / "absent", "no such file"),
        (tmp_path, "it is a folder"),
        (empty, "the file is empty"),
    ]:
        with pytest.raises(ConfigError, match=message), open_input(str(path)):
            pass
    for path, message in [
        (tmp_path, "it is a folder"),
        (whole, "it is the input"),
        (whole / "below-a-file", "cannot be written"),
    ]:
        with pytest.raises(ConfigError, match=message), open_output(str(path), str(whole)):
            pass
    assert whole.read_text() == "{}\n"
    with open_output(str(tmp_path / "new" / "out.jsonl"), str(whole)) as output:
        output.write("x")
