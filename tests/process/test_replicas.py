"""Several engines on one input: the same lines as of one, also when replicas are killed."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from byte_model import write_byte_model
from reference_answers import MODEL
from tdpipe import LLM, ConfigError, RequestRejected, SamplingParams
from tdpipe.batch.batch_input import BatchInput
from tdpipe.batch.batch_job import BatchJob
from tdpipe.batch.journal import open_journal
from tdpipe.cli.main import main
from tdpipe.outputs import Job
from tdpipe.prediction.oracle import OraclePredictor
from tdpipe.replicas import replica_processes
from tdpipe.replicas.messages import Checked, Failed, ReplicaSpec, decode_spec
from tdpipe.replicas.replica_pool import ReplicaPool

SETTINGS = {"kv_cache_memory": "1MiB", "max_num_seqs": 4}
OPTIONS = ["--kv-cache-memory", "1MiB", "--max-num-seqs", "4"]
NUM_LINES = 40


def line(custom_id, **body):
    record = {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body}
    return json.dumps(record) + "\n"


def answers(path):
    """What each line of an output says, without what is new in every run."""
    found = {}
    for raw in path.read_text().splitlines():
        record = json.loads(raw)
        response, error = record["response"], record["error"]
        body = response and {name: response["body"][name] for name in ("choices", "usage")}
        assert record["custom_id"] not in found
        found[record["custom_id"]] = (body, error)
    return found


@pytest.fixture(scope="module")
def byte_model(tmp_path_factory):
    return str(write_byte_model(tmp_path_factory.mktemp("bytes") / "model"))


@pytest.fixture(scope="module")
def long_input(tmp_path_factory):
    """Lines that take a second or two in all, half of them sampled without a seed of their own."""
    path = tmp_path_factory.mktemp("input") / "in.jsonl"
    bodies = [
        {"prompt": [number, 5, 9], "max_tokens": 30 + 7 * (number % 9), "temperature": number % 2}
        for number in range(NUM_LINES)
    ]
    path.write_text("".join(line(f"line {i}", **body) for i, body in enumerate(bodies)))
    return path


def jobs(hint=None):
    """Every second one is long."""
    for number in range(24):
        params = SamplingParams(temperature=0.0, max_tokens=(2, 200)[number % 2], ignore_eos=True)
        yield Job(("job", number), [number, 7], None, params, hint)


def tokens(results):
    return {one.key: one.output.outputs[0].token_ids for one in results}


@pytest.fixture(scope="module")
def alone(byte_model, long_input, tmp_path_factory):
    """What one engine says of itself, its answers to the input, and its tokens for the jobs."""
    out = tmp_path_factory.mktemp("alone") / "out.jsonl"
    with LLM(byte_model, **SETTINGS) as llm, long_input.open("rb") as file:
        batch = BatchInput(file)
        with open_journal(str(out), batch.index, {}, False) as journal:
            assert BatchJob(byte_model, print).run(llm, batch, journal).num_failed == 0
        return (llm.result_settings(), llm.partition), answers(out), tokens(llm.submit_iter(jobs()))


def test_the_embedded_model_answers_as_one_engine_does(tmp_path, capsys):
    given = tmp_path / "in.jsonl"
    texts = ["The sea is", "One day", "A list of five animals: " * 4, "Once", "2 + 2 ="]
    lines = [line(f"greedy {i}", prompt=text, max_tokens=6) for i, text in enumerate(texts)]
    lines[0] = line("drawn", prompt="Why", max_tokens=6, temperature=1.0, n=2, logprobs=1)
    lines += [
        line("seeded", prompt=["Why", "How"], max_tokens=5, seed=3, stop=["\n"]),
        line("no such token", prompt=[1, 10**7]),
        line("too long", prompt="x", max_tokens=10**5),
        "{broken\n",
    ]
    given.write_text("".join(lines))
    found, log = [], tmp_path / "log.jsonl"
    for replicas in (1, 2):
        out = tmp_path / f"out{replicas}.jsonl"
        command = ["run-batch", "-i", str(given), "-o", str(out), "--model", MODEL, "--replicas"]
        command += [str(replicas), "--kv-cache-memory", "64MiB", "--log-file", str(log)]
        assert main(command) == 1
        found.append(answers(out))
    assert found[0] == found[1] and len(found[0]) == len(lines)
    shown = capsys.readouterr().out
    assert "replica 0    " in shown and "replica 1    " in shown
    assert "requests     7 finished, 3 failed" in shown
    logged = json.loads(log.read_text().splitlines()[-1])
    assert logged["event"] == "end" and logged["summary"]["output_tokens_per_s"] > 0
    assert sum(one["num_requests"] for one in logged["summary"]["replicas"]) == 7


def test_a_pool_checks_balances_and_outlives_a_replica(byte_model, alone, tmp_path, monkeypatch):
    """That every second job is long nobody foresees: one replica gets all of those.

    Then that one is stopped, as from outside, and is killed for it.
    """
    monkeypatch.setattr(replica_processes, "STOPPED_LIMIT_S", 0.4)
    described, _, whole = alone
    moments, timeline = [], tmp_path / "run.json"
    with ReplicaPool(byte_model, replicas=2, timeline=timeline, **SETTINGS) as pool:
        assert (pool.result_settings(), pool.partition) == described
        good = Job(0, [1], None, SamplingParams())
        pool.check(good)
        with pytest.raises(RequestRejected, match=r"^prompt=300: use token ids from 0 to 256$"):
            pool.check(Job(0, [300], None, SamplingParams()))
        assert tokens(pool.submit_iter(jobs(hint=2), moments.append)) == whole
        summary = pool.summary()
        assert summary.num_moved > 0 and summary.num_requests == 24
        assert all(one.busy_s > 0 for one in summary.replicas)
        assert moments[-1].num_requests == 24
        results = pool.submit_iter(jobs())
        first = next(results)
        os.kill(pool.pids[0], signal.SIGSTOP)
        assert tokens([first, *results]) == whole
        assert "killed" in pool.summary().replicas[0].lost
        assert tokens(pool.submit_iter(jobs())) == whole  # on the one that is left
        pids = pool.pids
    assert not any(map(psutil.pid_exists, pids))
    assert json.loads((tmp_path / "run.replica1.json").read_text())["traceEvents"]


FLOOD = """
import sys, zmq
from tdpipe.replicas.messages import Checked, encode
socket = zmq.Context().socket(zmq.PUSH)
socket.connect(sys.argv[1])
while True:
    socket.send(encode(Checked(0, None)))
"""


def test_an_end_is_noticed_while_others_send_without_pause(monkeypatch):
    programs = [FLOOD, "raise SystemExit(3)"]

    def start(module, folder, message, environment):
        spec = decode_spec(message)
        command = [sys.executable, "-c", programs[spec.replica], spec.pool_address]
        return subprocess.Popen(command, stdin=subprocess.PIPE)

    monkeypatch.setattr(replica_processes, "start_child", start)
    monkeypatch.setattr(replica_processes, "CLOSE_LIMITS_S", (0.0, 0.0, 10.0))
    processes = replica_processes.ReplicaProcesses(
        lambda folder: [ReplicaSpec(i, 2, "{}", (), f"ipc://{folder}/pool", "") for i in (0, 1)],
        [{}, {}],
    )
    try:
        while not isinstance(processes.receive(1.0), Checked):
            pass
        deadline_s = time.monotonic() + 10
        while not isinstance(message := processes.receive(1.0), Failed):
            assert isinstance(message, Checked) and time.monotonic() < deadline_s
    finally:
        processes.close()
    assert message.replica == 1 and "its process ended (exit status 3)" in message.error
    assert not any(map(psutil.pid_exists, processes.pids))


def workers(process):
    """The replica processes of a run, and their stages."""
    mine = process.children()
    replicas = [one for one in mine if "replica_worker" in " ".join(one.cmdline())]
    return replicas, [stage for one in replicas for stage in one.children()]


def wait_for_lines(out, count):
    deadline_s = time.monotonic() + 60
    while not out.exists() or out.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def kill_all_replicas(running):
    for replica in workers(running)[0]:
        replica.kill()


WAYS = {
    3: kill_all_replicas,
    130: lambda one: one.send_signal(signal.SIGINT),
    -9: lambda one: one.kill(),
}


def test_a_run_is_stopped_in_three_ways_and_goes_on(byte_model, long_input, alone, tmp_path):
    """By the loss of all replicas, an interrupt, and the kill of the main process."""
    out, num_lines = tmp_path / "out.jsonl", 0
    command = ["run-batch", "-i", str(long_input), "-o", str(out), "--model", byte_model, *OPTIONS]
    for status, stop in WAYS.items():
        started = subprocess.Popen(
            [sys.executable, "-m", "tdpipe.cli.main", *command, "--replicas", "2"],
            stderr=subprocess.PIPE,
            text=True,
        )
        running = psutil.Process(started.pid)
        wait_for_lines(out, num_lines + 3)
        replicas, stages = workers(running)
        assert len(replicas) == len(stages) == 2
        stop(running)
        said = started.communicate(timeout=30)[1]
        assert started.returncode == status, said
        assert ("failed: its process was killed" in said) == (status == 3)
        assert psutil.wait_procs(replicas + stages, 5)[1] == []
        num_lines = len(answers(out))
        assert num_lines < NUM_LINES
    assert main(command) == 0 and answers(out) == alone[1]  # the last part on one engine


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--kv-cache-memory", "1KiB"], "kv_cache_memory"),
        (["--partition", "1,2,3"], "partition"),
        (["--max-model-len", "100000"], "max_model_len"),
    ],
)
def test_a_setting_that_cannot_be_used(byte_model, long_input, tmp_path, capsys, options, told):
    """The same word, and the same status, as of one engine; nothing is written."""
    out, said = tmp_path / "out.jsonl", []
    for replicas in ("1", "2"):
        command = ["run-batch", "-i", str(long_input), "-o", str(out), "--model", byte_model]
        assert main([*command, *options, "--replicas", replicas]) == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1] and told in said[0] and said[0].startswith("error: ")
    assert not out.exists()


@pytest.mark.parametrize(
    "options", [["--replicas", "0"], ["--replicas", "2", "--report", "r.html"]]
)
def test_what_replicas_do_not_do(options, long_input, tmp_path, capsys):
    out = str(tmp_path / "out.jsonl")
    assert main(["run-batch", "-i", str(long_input), "-o", out, *options]) == 2
    assert "error: re" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"replicas": True}, "replicas=True: use a whole number"),
        ({"replicas": 2, "length_predictor": OraclePredictor({})}, "length_predictor=.*other proc"),
        ({"replicas": 2, "colour": "red"}, "colour='red': unknown setting"),
        ({"replicas": 2, "distributed_executor_backend": "ray"}, "ray_address=None: .* HOST:PORT"),
    ],
)
def test_what_a_pool_cannot_be_made_of(byte_model, settings, told):
    with pytest.raises(ConfigError, match=told):
        ReplicaPool(byte_model, **settings)
