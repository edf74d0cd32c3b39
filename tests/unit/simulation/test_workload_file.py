"""Workload files: each format from a tiny file, every error with its place, and what is derived."""

import json

import pytest

from tdpipe.core.errors import ConfigError
from tdpipe.simulation.simulated_pipeline import END_TOKEN
from tdpipe.simulation.workload import (
    Workload,
    WorkloadRequest,
    requests_of,
    timed_requests_of,
)
from tdpipe.simulation.workload_file import WORKLOAD_FORMATS, read_workload
from tdpipe.simulation.workload_json import quarter_of_characters


def written(folder, text, name="trace.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def json_lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def chat(*turns):
    return {"id": "x", "conversations": [{"from": who, "value": text} for who, text in turns]}


def batch_line(**body):
    return {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}


def error_of(path, **arguments):
    with pytest.raises(ConfigError) as caught:
        read_workload(path, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "header",
    [
        "in_tok,out_tok",
        "num_prefill_tokens,num_decode_tokens",
        "input_tokens,output_tokens",
        "prompt_tokens,output_tokens",
    ],
)
@pytest.mark.parametrize("format", ["auto", "lengths"])
def test_length_tables(tmp_path, header, format):
    path = written(tmp_path, f"id,{header},more\na,33,256,x\n\nb,17,73,y\n")
    workload = read_workload(path, format)
    assert workload == Workload("trace", (WorkloadRequest(33, 256), WorkloadRequest(17, 73)))
    assert workload.lengths() == [(33, 256), (17, 73)]
    assert (workload.prompt_tokens, workload.output_tokens) == (50, 329)


def test_arrivals_of_a_length_table_count_from_the_earliest(tmp_path):
    rows = "arrived_at,num_prefill_tokens,num_decode_tokens\n12.5,5,6\n10,7,8\n"
    workload = read_workload(written(tmp_path, rows))
    assert workload.requests == (WorkloadRequest(5, 6, 2.5), WorkloadRequest(7, 8, 0.0))


def test_azure_trace(tmp_path):
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
        "2023-11-16 18:17:03.9799600,4808,10\r\n"
        "2023-11-16 18:17:04.0319600,3180,8"
    )
    workload = read_workload(written(tmp_path, text))
    assert workload.requests == (WorkloadRequest(4808, 10), WorkloadRequest(3180, 8, 0.052))


def test_azure_trace_with_zones(tmp_path):
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2024-05-10 00:00:00.5+00:00,1,2\n2024-05-10 02:00:01+02:00,3,4\n"
    )
    assert read_workload(written(tmp_path, text)).requests[1].arrival_s == 0.5


def test_servegen_window_is_no_arrival(tmp_path):
    path = written(tmp_path, "client,window_s,input_tokens,output_tokens\n30,43200,3340,644\n")
    assert read_workload(path).requests == (WorkloadRequest(3340, 644),)
    assert read_workload(path, "servegen") == read_workload(path, "lengths")


def test_sharegpt_takes_the_first_question_and_its_answer(tmp_path):
    records = [
        chat(("human", "four"), ("gpt", "eight888"), ("human", "more"), ("gpt", "more")),
        chat(("gpt", "earlier"), ("user", "abcde"), ("assistant", "x")),
        chat(("human", "no answer")),
        chat(),
    ]
    path = written(tmp_path, json.dumps(records, indent=1), "chats.json")
    workload = read_workload(path)
    assert workload.lengths() == [(1, 2), (2, 1)]
    assert workload.dropped_requests == 2
    assert read_workload(path, count_tokens=len).lengths() == [(4, 8), (5, 1)]
    lines = written(tmp_path, json_lines(*records), "chats.jsonl")
    assert read_workload(lines, "sharegpt").requests == workload.requests


def test_openai_batch(tmp_path):
    parts = [{"type": "text", "text": "abc"}, {"type": "image_url", "image_url": {"url": "x"}}]
    system, user = {"role": "system", "content": "abcd"}, {"role": "user", "content": "efgh"}
    path = written(
        tmp_path,
        json_lines(
            batch_line(messages=[system, user], max_tokens=7),
            batch_line(messages=[user], max_completion_tokens=9, max_tokens=7),
            batch_line(messages=[{"role": "user", "content": parts}], max_tokens=None),
            batch_line(prompt="abcdef"),
            batch_line(prompt=[5, 6, 7], max_tokens=1),
            batch_line(messages=[{"role": "assistant", "content": None}]),
        ),
        "batch.jsonl",
    )
    workload = read_workload(path, count_tokens=len)
    assert workload.lengths() == [(9, 7), (4, 9), (4, 256), (6, 256), (3, 1)]
    assert workload.dropped_requests == 1


def test_mooncake(tmp_path):
    first = {"timestamp": 27482, "input_length": 600, "output_length": 52, "hash_ids": [46, 47]}
    second = {"timestamp": 30535, "input_length": 513, "output_length": 3, "hash_ids": [46, 60]}
    workload = read_workload(written(tmp_path, json_lines(first, second), "trace.jsonl"))
    assert workload.requests == (
        WorkloadRequest(600, 52, 0.0, (46, 47)),
        WorkloadRequest(513, 3, 3.053, (46, 60)),
    )
    assert workload.scaled(prompt_limit=512).requests[1] == WorkloadRequest(512, 3, 3.053, (46,))


@pytest.mark.parametrize(
    "times",
    [
        {"arrival_time_ns": [46926808, 347938951]},
        {"arrival_time": [1777142984.5, 1777142984.801012143]},
    ],
)
def test_timed_lengths(tmp_path, times):
    [(key, (first, second))] = times.items()
    lines = json_lines(
        {"input_toks": 2361, "output_toks": 532, key: first, "input_tok_ids": [1]},
        {"input_toks": 1128, "output_toks": 772, key: second},
    )
    requests = read_workload(written(tmp_path, lines, "runs.jsonl")).requests
    assert [(r.prompt_tokens, r.output_tokens) for r in requests] == [(2361, 532), (1128, 772)]
    assert [r.arrival_s for r in requests] == pytest.approx([0.0, 0.301012], abs=1e-6)


def test_timed_lengths_without_a_time_are_offline(tmp_path):
    path = written(tmp_path, json_lines({"input_toks": 3, "output_toks": 4}), "runs.jsonl")
    assert read_workload(path).requests == (WorkloadRequest(3, 4),)


def test_requests_of_no_tokens_are_dropped_and_counted(tmp_path):
    rows = "arrived_at,input_tokens,output_tokens\n1,0,5\n2,5,0\n3,4,4\n"
    workload = read_workload(written(tmp_path, rows))
    assert workload.requests == (WorkloadRequest(4, 4, 0.0),)
    assert workload.dropped_requests == 2


def test_a_byte_order_mark_and_quoted_cells_are_read(tmp_path):
    path = written(tmp_path, '\ufeff"in_tok", out_tok,text\n"1", 2 ,"two\nlines"\n')
    assert read_workload(path).lengths() == [(1, 2)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("in_tok,out_tok\n1,2\n3,-4\n", "line 3': out_tok must be a whole number"),
        ("in_tok,out_tok\n1.5,2\n", "line 2': in_tok must be a whole number"),
        ("in_tok,out_tok\n,2\n", "line 2': in_tok must be a whole number"),
        ("in_tok,out_tok\n" + "9" * 5000 + ",2\n", "line 2': in_tok must be a whole number"),
        ("in_tok,out_tok\n1,2\n3\n", "line 3': it has 1 columns where the header has 2"),
        ('in_tok,out_tok\n1,2\n"3,4\n', "it is not CSV"),
        ("in_tok,x\n1,2\n", "column out_tok is missing"),
        ("TIMESTAMP,ContextTokens\n1,2\n", "column GeneratedTokens is missing"),
        ("t_s,rate\n1,2\n", "no columns with lengths"),
        ("arrived_at,input_tokens,output_tokens\nnan,2,3\n", "line 2': arrived_at must be a num"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nnow,2,3\n", "line 2': TIMESTAMP must be a date"),
        ("in_tok,out_tok\n", "no request in it"),
        ("in_tok,out_tok\n0,3\n", "no request in it"),
        ("", "the file is empty"),
        (" \n\n", "the file is empty"),
    ],
)
def test_broken_csv(tmp_path, text, expected):
    assert expected in error_of(written(tmp_path, text))


MOON = {"timestamp": 1, "input_length": 600, "output_length": 2, "hash_ids": [1, 2]}
TIMED = {"input_toks": 1, "output_toks": 2}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (json_lines(TIMED) + "\n{broken\n", "line 3': it is not JSON"),
        ('[{"conversations":\n [,]}]', "line 2': it is not JSON"),
        ("[" * 100_000, "line 1': it is not JSON"),
        (json_lines(TIMED) + "9" * 5000, "line 2': it is not JSON"),
        (json_lines(TIMED, [1]), "line 2': it must be a JSON object"),
        ("[1]", "record 1': it must be a JSON object"),
        ("[]", "no request in it"),
        (json_lines({"prompt": "x"}), "line 1': no known format has these keys"),
        (json_lines(TIMED, {"input_toks": 1}), "line 2': output_toks is missing"),
        (json_lines(TIMED | {"input_toks": -1}), "line 1': input_toks must be a whole number"),
        (json_lines(TIMED | {"input_toks": 1.0}), "line 1': input_toks must be a whole number"),
        (json_lines(TIMED | {"input_toks": True}), "line 1': input_toks must be a whole number"),
        (json_lines(TIMED | {"input_toks": None}), "line 1': input_toks must be a whole number"),
        (json_lines(TIMED | {"arrival_time": "x"}), "line 1': arrival_time must be a number"),
        (json_lines(TIMED | {"arrival_time": 10**400}), "line 1': arrival_time must be a number"),
        (json_lines(TIMED | {"arrival_time_ns": []}), "line 1': arrival_time_ns must be a number"),
        (json_lines(MOON | {"hash_ids": "x"}), "line 1': hash_ids must be a list"),
        (json_lines(MOON | {"hash_ids": [1, 2, 3]}), "line 1': 3 hash_ids are more than 600"),
        (json_lines(MOON | {"timestamp": True}), "line 1': timestamp must be a number"),
        (json_lines({"conversations": [1]}), "line 1': conversations must be a list"),
        (json_lines(chat(("human", 5), ("gpt", "x"))), "line 1': value must be a string"),
        (json_lines({"custom_id": "a", "body": 1}), "line 1': body must be an object"),
        (json_lines(batch_line()), "line 1': prompt is missing"),
        (json_lines(batch_line(prompt=["a", "b"])), "line 1': prompt must be a string"),
        (json_lines(batch_line(messages="x")), "line 1': messages must be a list"),
        (json_lines(batch_line(messages=[{"content": 5}])), "line 1': content must be a string"),
        (json_lines(batch_line(prompt="x", max_tokens="y")), "line 1': max_tokens must be a whole"),
    ],
)
def test_broken_json(tmp_path, text, expected):
    assert expected in error_of(written(tmp_path, text, "trace.jsonl"))


def test_files_that_cannot_be_read(tmp_path):
    assert "there is no such file" in error_of(tmp_path / "none.csv")
    assert "there is no such file" in error_of(str(tmp_path / "none.csv"))
    assert "it is a folder" in error_of(tmp_path)
    assert "cannot be read" in error_of(tmp_path / ("x" * 300))
    assert "cannot be read" in error_of("a\0b")
    binary = tmp_path / "binary"
    binary.write_bytes(b"in_tok,out_tok\n\xff\xfe,1\n")
    assert "it is not UTF-8 text" in error_of(binary)


def test_formats_that_do_not_fit(tmp_path):
    path = written(tmp_path, "in_tok,out_tok\n1,2\n")
    message = error_of(path, format="parquet")
    assert all(name in message for name in ("parquet", "auto", *WORKLOAD_FORMATS))
    assert "line 1': it is not JSON" in error_of(path, format="mooncake")
    assert "no columns with lengths" in error_of(path, format="azure")
    lines = written(tmp_path, json_lines(TIMED), "trace.jsonl")
    assert "conversations is missing" in error_of(lines, format="sharegpt")
    assert "input_length is missing" in error_of(lines, format="mooncake")
    assert "no columns with lengths" in error_of(lines, format="lengths")


def test_characters_are_estimated_as_quarters_of_tokens():
    assert [quarter_of_characters("x" * length) for length in (0, 1, 4, 5)] == [0, 1, 1, 2]


HUNDRED = Workload("hundred", tuple(WorkloadRequest(n, 2 * n, n % 7) for n in range(1, 101)), 3)


def test_a_sample_is_fixed_by_its_seed_and_draws_nothing_twice():
    drawn = HUNDRED.sample(60, seed=1)
    assert drawn == HUNDRED.sample(60, seed=1) != HUNDRED.sample(60, seed=2)
    assert len(set(drawn.requests)) == 60 and set(drawn.requests) <= set(HUNDRED.requests)
    assert set(HUNDRED.sample(100).requests) == set(HUNDRED.requests)
    arrivals = [request.arrival_s for request in drawn.requests]
    assert arrivals == sorted(arrivals)


def test_a_sample_beyond_the_workload_repeats():
    assert len(HUNDRED.sample(250).requests) == 250


@pytest.mark.parametrize("count", [0, -1])
def test_a_sample_of_nothing(count):
    with pytest.raises(ConfigError, match="count="):
        HUNDRED.sample(count)


def test_a_sample_from_nothing():
    with pytest.raises(ConfigError, match="no requests to draw from"):
        Workload("none", ()).sample(1)


def test_limits_cut_lengths():
    cut = HUNDRED.scaled(prompt_limit=10, output_limit=50)
    assert cut.lengths() == [(min(n, 10), min(2 * n, 50)) for n in range(1, 101)]
    assert HUNDRED.scaled() == HUNDRED
    for limits in ({"prompt_limit": 0}, {"output_limit": -1}):
        with pytest.raises(ConfigError, match="at least 1"):
            HUNDRED.scaled(**limits)


def test_requests_for_the_control_plane():
    requests = requests_of(HUNDRED)
    assert [request.request_id for request in requests] == list(range(100))
    assert [len(r.prompt_token_ids) for r in requests] == [p for p, _ in HUNDRED.lengths()]
    # Lengths are not to be read off a limit: requests end by an end-of-text token.
    assert {(r.params.max_tokens, r.eos_token_ids) for r in requests} == {(None, (END_TOKEN,))}
    timed = timed_requests_of(HUNDRED)
    assert [each.request for each in timed] == requests
    assert [each.arrival_s for each in timed] == [n % 7 for n in range(1, 101)]
    assert {each.arrival_s for each in timed_requests_of(HUNDRED.offline())} == {0.0}
