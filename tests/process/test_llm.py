"""The front end on real stages: sampling, stops, order, streams, bad input, no process left."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from reference_answers import MODEL
from tdpipe import LLM, CapacityError, ConfigError, RequestRejected, SamplingParams, StageFailed
from tdpipe.cli.main import main
from tdpipe.outputs import Job

GREEDY = SamplingParams(temperature=0.0, max_tokens=12)


def stage_processes():
    """Children of this process that are stages."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "stage_worker" in " ".join(child.cmdline())]


@pytest.fixture(scope="module")
def llm():
    with LLM(MODEL, pipeline_parallel_size=2, kv_cache_memory="128MiB", max_model_len=1024) as made:
        yield made
    assert stage_processes() == []


def text_of(output):
    return output.outputs[0].text


def test_order_and_finish_reasons(llm):
    params = [SamplingParams(temperature=0.0, max_tokens=n) for n in (12, 3, 7)]
    outputs = llm.generate(["One, two,", "Red, green,", "The capital of France is"], params)
    assert [output.index for output in outputs] == [0, 1, 2]
    assert [len(output.outputs[0].token_ids) for output in outputs] == [12, 3, 7]
    assert all(output.outputs[0].finish_reason == "length" for output in outputs)
    assert "Paris" in text_of(outputs[2])


def test_stages_ask_for_huge_pages(llm):
    environments = [Path(f"/proc/{pid}/environ").read_bytes() for pid in llm.pids]
    assert all(b"glibc.malloc.hugetlb=1" in one for one in environments)


def test_chat_ends_by_itself(llm):
    talk = [{"role": "user", "content": "What is the capital of France?"}]
    [output] = llm.chat(talk, SamplingParams(temperature=0.0, max_tokens=100))
    assert output.outputs[0].finish_reason == "stop" and output.outputs[0].stop_reason is None
    assert "Paris" in text_of(output) and "<|im_end|>" not in text_of(output)


def test_seeded_sampling_ignores_batch_and_scheduler(llm):
    warm = SamplingParams(temperature=1.0, top_p=0.9, seed=11, max_tokens=16)
    prompt = "My favourite place in the mountains"
    alone = llm.generate(prompt, warm)[0].outputs[0].token_ids
    filler = [SamplingParams(temperature=1.0, max_tokens=9)] * 5
    llm.use_scheduler("pp-hybrid")
    crowd = llm.generate([prompt, *["Filler text"] * 5], [warm, *filler])
    llm.use_scheduler("td-pipe")
    assert crowd[0].outputs[0].token_ids == alone
    other = llm.generate(prompt, SamplingParams(temperature=1.0, seed=12, max_tokens=16))
    assert other[0].outputs[0].token_ids != alone


def test_n_completions(llm):
    params = SamplingParams(n=3, temperature=1.0, seed=5, max_tokens=8)
    [output] = llm.generate("A story about a", params)
    assert [one.index for one in output.outputs] == [0, 1, 2]
    assert len({tuple(one.token_ids) for one in output.outputs}) == 3


def test_stop_strings_and_tokens(llm):
    whole = text_of(llm.generate("Monday, Tuesday,", GREEDY)[0])
    assert "Thursday" in whole
    stopped = SamplingParams(temperature=0.0, max_tokens=12, stop=("Thursday",))
    [output] = llm.generate("Monday, Tuesday,", stopped)
    one = output.outputs[0]
    assert one.text == whole[: whole.index("Thursday")]
    assert (one.finish_reason, one.stop_reason) == ("stop", "Thursday")
    first = llm.generate("Monday, Tuesday,", GREEDY)[0].outputs[0].token_ids[2]
    by_token = SamplingParams(temperature=0.0, max_tokens=12, stop_token_ids=(first,))
    one = llm.generate("Monday, Tuesday,", by_token)[0].outputs[0]
    assert one.stop_reason == first and one.token_ids[-1] == first


def test_min_tokens_and_logprobs(llm):
    talk = [{"role": "user", "content": "Say yes."}]
    params = SamplingParams(temperature=0.0, min_tokens=40, max_tokens=60, logprobs=2)
    one = llm.chat(talk, params)[0].outputs[0]
    assert len(one.token_ids) >= 40 and len(one.logprobs) == len(one.token_ids)
    for entry, token_id in zip(one.logprobs, one.token_ids, strict=True):
        assert entry.token_id == token_id and entry.logprob <= 0 and len(entry.top) == 2


def test_stream_adds_up_to_the_answer(llm):
    [whole] = llm.generate("Once upon a time", GREEDY)
    updates = list(llm.stream("Once upon a time", GREEDY))
    assert "".join(update.text_delta for update in updates) == text_of(whole)
    assert [update.finished for update in updates].count(True) == 1 and updates[-1].finished
    stop = SamplingParams(temperature=0.0, max_tokens=12, stop=("Thursday",))
    pieces = [update.text_delta for update in llm.stream("Monday, Tuesday,", stop)]
    assert "".join(pieces) == text_of(llm.generate("Monday, Tuesday,", stop)[0])


def test_generate_iter_yields_short_ones_first(llm):
    params = [SamplingParams(temperature=0.0, max_tokens=n, ignore_eos=True) for n in (40, 2)]
    assert [output.index for output in llm.generate_iter(["a", "b"], params)] == [1, 0]


def test_a_common_header_changes_no_answer(llm):
    header = "The following is a list of questions about capitals, with short answers. " * 9
    asked = ("France", "Italy", "Japan", "Egypt", "Peru", "Norway", "Kenya", "Cuba")
    prompts = [f"{header}Question: What is the capital of {one}? Answer:" for one in asked]
    config = llm.config
    llm.config = replace(config, enable_prefix_caching=False)
    alone = [output.outputs[0].token_ids for output in llm.generate(prompts, GREEDY)]
    assert llm.summary().cached_share == 0
    llm.config = config
    for scheduler in ("td-pipe", "adaptive", "pp-hybrid"):
        llm.use_scheduler(scheduler)
        shared = [output.outputs[0].token_ids for output in llm.generate(prompts, GREEDY)]
        assert shared == alone, scheduler
        summary = llm.summary()
        assert summary.cached_share > 0.5 and summary.recomputed_tokens == 0
    llm.config = config


def test_an_abandoned_run_does_not_disturb_the_next(llm):
    before = text_of(llm.generate("The sun is", GREEDY)[0])
    iterator = llm.generate_iter(["The moon is", "A star is"], GREEDY)
    del iterator
    iterator = llm.generate_iter(["The moon is", "A star is"], GREEDY)
    next(iterator)
    iterator.close()
    forgotten = llm.generate_iter(["The moon is", "A star is"], GREEDY)
    next(forgotten)  # neither closed nor collected when the next run begins
    assert text_of(llm.generate("The sun is", GREEDY)[0]) == before


def test_bad_jobs_fail_alone(llm):
    jobs = [
        Job("good", "Hello", None, GREEDY),
        Job("long", [5] * 2000, None, GREEDY),
        Job("over", "Hello", None, SamplingParams(max_tokens=5000)),
        Job("empty", "", None, GREEDY),
        Job("ids", [10**9], None, GREEDY),
    ]
    results = {result.key: result for result in llm.submit_iter(jobs)}
    assert results["good"].error is None
    assert "use at most 1023 tokens" in str(results["long"].error)
    assert "max_tokens=5000: use at most" in str(results["over"].error)
    assert "prompt=''" in str(results["empty"].error)
    assert "token ids from 0 to 49151" in str(results["ids"].error)


def test_bad_calls(llm):
    with pytest.raises(RequestRejected, match="give at least one prompt"):
        llm.generate([])
    with pytest.raises(RequestRejected, match="one for each of the 2 prompts"):
        llm.generate(["a", "b"], [GREEDY])
    with pytest.raises(RequestRejected, match="one completion"):
        list(llm.stream("a", SamplingParams(n=2)))
    with pytest.raises(RequestRejected, match="use at most 1023 tokens"):
        llm.generate([[5] * 2000])
    assert text_of(llm.generate("Still alive", GREEDY)[0])


def test_an_error_in_the_callers_iterable_comes_back(llm):
    def jobs():
        yield Job(0, "Hello", None, GREEDY)
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        list(llm.submit_iter(jobs()))
    assert text_of(llm.generate("Still alive", GREEDY)[0])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"model": "no-such-model"}, ConfigError, "model='no-such-model'"),
        ({"partition": "29,2"}, ConfigError, "add up to the model's 30 layers"),
        ({"partition": "10,10,10"}, ConfigError, "give 2 numbers"),
        ({"kv_cache_memory": "512KiB"}, CapacityError, "kv_cache_memory='512KiB'"),
        ({"kv_cache_memory": "64MiB", "max_model_len": 8192}, CapacityError, "needs 512 blocks"),
        ({"max_model_len": 10**6}, ConfigError, "the model's limit"),
        ({"device": "cuda"}, ConfigError, "CUDA devices for 2 stages"),
        (
            {"quantization": "int8", "dtype": "bfloat16"},
            ConfigError,
            "float32 on CPU, not bfloat16",
        ),
        (
            {"kv_cache_dtype": "float16", "dtype": "bfloat16"},
            ConfigError,
            "kv_cache_dtype='float16': .* float32 on CPU, not bfloat16",
        ),
        ({"pipeline_parallel_size": 31}, ConfigError, "use 1 to 30 stages"),
        ({"colour": 1}, ConfigError, "unknown setting"),
    ],
)
def test_bad_settings_leave_no_process(settings, error, message):
    before = len(stage_processes())
    settings = {"model": MODEL, "pipeline_parallel_size": 2, **settings}
    with pytest.raises(error, match=message) as caught:
        LLM(**settings)
    assert "\n" not in str(caught.value)
    assert len(stage_processes()) == before


def test_int8_answers_are_the_same_in_any_batch():
    prompts = ["The capital of France is", "One, two,", "Red, green,", "Water boils at"]
    with LLM(MODEL, quantization="int8", pipeline_parallel_size=2, kv_cache_memory="64MiB") as llm:
        together = [output.outputs[0].token_ids for output in llm.generate(prompts, GREEDY)]
        llm.use_scheduler("td-pipe")
        alone = [llm.generate(prompt, GREEDY)[0].outputs[0].token_ids for prompt in prompts]
        assert together == alone
        assert "Paris" in text_of(llm.generate(prompts[0], GREEDY)[0])


def test_a_killed_stage_ends_a_run_without_restarts_and_nothing_is_left():
    before = {process.pid for process in stage_processes()}
    llm = LLM(MODEL, pipeline_parallel_size=2, kv_cache_memory="64MiB", max_restarts=0)
    llm.wait_until_ready()
    endless = SamplingParams(temperature=0.0, max_tokens=1000, ignore_eos=True)
    iterator = llm.generate_iter(["a", "b"], [GREEDY, endless])
    next(iterator)
    os.kill(llm.pids[0], signal.SIGKILL)
    with pytest.raises(StageFailed, match=r"stage 0 failed: its process was killed"):
        list(iterator)
    assert {process.pid for process in stage_processes()} == before
    with pytest.raises(StageFailed, match="closed"):
        llm.generate("x")


SCRIPT = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs start with it ignored
from tdpipe import LLM, SamplingParams
llm = LLM("smollm2-135m-instruct", pipeline_parallel_size=2, kv_cache_memory="64MiB")
llm.wait_until_ready()
print(*llm.pids, flush=True)
if sys.argv[1] == "exit":
    sys.exit()
if sys.argv[1] == "raise":
    raise ValueError("a bug of the user's")
llm.generate("x", SamplingParams(max_tokens=1000, ignore_eos=True))
"""


@pytest.mark.parametrize("how", ["exit", "raise", signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stages_end_with_the_engine(how):
    """Without a context manager: at exit, on an exception, and by signals, even kill -9."""
    way = how if isinstance(how, str) else "run"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, way],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2
    if not isinstance(how, str):
        time.sleep(0.5)
        process.send_signal(how)
    process.wait(20)
    deadline_s = time.monotonic() + 10
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert not any(map(psutil.pid_exists, pids))


def test_an_interrupted_batch_goes_on_later(tmp_path):
    """Once: what decodes is finished and written, exit 130; the next run does the rest."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    short = {"prompt": "The capital of France is", "max_tokens": 12, "temperature": 0,
             "ignore_eos": True}  # fmt: skip
    lines = [{"custom_id": str(i), "url": "/v1/completions", "body": short} for i in range(18)]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    # Room for six at once.
    command = [sys.executable, "-m", "tdpipe.cli.main", "run-batch", "-i", str(source), "-o",
               str(target), "-p", "2", "--kv-cache-memory", "5MiB"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline_s = time.monotonic() + 60
    while not (target.exists() and target.stat().st_size) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    shown = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "lines are left" in shown, shown
    results = [json.loads(line) for line in target.read_text().splitlines()]
    assert 0 < len(results) < 18
    assert {r["response"]["body"]["usage"]["completion_tokens"] for r in results} == {12}
    assert subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0
    results = [json.loads(line) for line in target.read_text().splitlines()]
    assert sorted(int(r["custom_id"]) for r in results) == list(range(18))
    assert len({r["response"]["body"]["choices"][0]["text"] for r in results}) == 1


def test_run_batch_on_real_stages(tmp_path, capsys):
    lines = [
        {"custom_id": "a", "method": "POST", "url": "/v1/completions",
         "body": {"prompt": "The capital of France is", "max_tokens": 6, "temperature": 0}},
        {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}},
        {"custom_id": "b", "method": "POST", "url": "/v1/chat/completions",
         "body": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}},
    ]  # fmt: skip
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    text = "\n".join(json.dumps(line) for line in lines) + "\n{broken\n"
    source.write_text(text)
    timeline = tmp_path / "timeline.json"
    arguments = ["run-batch", "-i", str(source), "-o", str(target), "-p", "2", "--show", "1"]
    status = main([*arguments, "--kv-cache-memory", "64MiB", "--timeline", str(timeline)])
    assert status == 1
    results = [json.loads(line) for line in target.read_text().splitlines()]
    answers = {r["custom_id"]: r["response"]["body"] for r in results if r["response"]}
    assert "Paris" in answers["a"]["choices"][0]["text"]
    assert answers["b"]["usage"]["completion_tokens"] <= 5
    assert sorted(str(r["custom_id"]) for r in results if r["error"]) == ["None", "a"]
    shown = capsys.readouterr().out
    assert "throughput" in shown and "2 lines failed" in shown and str(target) in shown
    assert main(arguments) == 1  # the same command again has nothing left to do
    shown = capsys.readouterr().out
    assert "4 lines are from earlier runs" in shown and "throughput" not in shown
    assert len(target.read_text().splitlines()) == 4
    stages = {e["tid"] for e in json.loads(timeline.read_text())["traceEvents"] if e["ph"] == "X"}
    assert stages == {0, 1}
