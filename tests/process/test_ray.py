"""Stages on the nodes of a Ray cluster: outputs as on one machine, also when a node is lost."""

import contextlib
import json
import random
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import psutil
import pytest

from byte_model import write_byte_model
from reference_answers import FEW_TOKENS, MODEL, differences, shortened
from strangers import knock, raw_frames
from tdpipe import LLM, SamplingParams
from tdpipe.cli.main import main
from tdpipe.config.links_file import load_links
from tdpipe.core.errors import ConfigError

ray = pytest.importorskip("ray")

PROMPTS = [[number, 5, 9, 7 * number] for number in range(12)]
PARAMS = SamplingParams(temperature=0.0, max_tokens=200, ignore_eos=True)
# Ray notices a lost node after a period or two; its own default is some fifteen seconds.
QUICK = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 2,
}


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one CPU each, and a head with none."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": QUICK})
    cluster.workers = [add_node(cluster), add_node(cluster)]
    yield cluster
    cluster.shutdown()


def add_node(cluster):
    return cluster.add_node(num_cpus=1, object_store_memory=80 << 20)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_byte_model(tmp_path_factory.mktemp("bytes") / "model"))


@pytest.fixture(scope="module")
def alone(model):
    with LLM(model, kv_cache_memory="4MiB") as llm:
        return answers(llm.generate(PROMPTS, PARAMS))


def on_ray(model, cluster, **settings):
    settings = {"pipeline_parallel_size": 2, "kv_cache_memory": "4MiB", **settings}
    return LLM(
        model, distributed_executor_backend="ray", ray_address=cluster.address, **settings
    )  # fmt: skip


def answers(outputs):
    return [output.outputs[0].token_ids for output in outputs]


def nodes_of(pids):
    """The Ray nodes on which processes run: their actors' daemons."""
    return {psutil.Process(pid).parent().ppid() for pid in pids}


def test_the_embedded_model(cluster, prompts, reference):
    greedy = SamplingParams(temperature=0.0, max_tokens=FEW_TOKENS, ignore_eos=True)
    with on_ray(MODEL, cluster, kv_cache_memory="256MiB") as llm:
        wrong, ties = differences(llm.generate(prompts, greedy), shortened(reference, FEW_TOKENS))
        assert len(nodes_of(llm.pids)) == 2
        spans = llm.trace().spans
    assert wrong == [] and len(ties) < max(2, len(prompts) / 8)
    assert min(span.end_s - span.start_s for span in spans) > 0


def test_a_lost_node_with_another_at_hand(cluster, model, alone):
    """Its processes end with it; the run goes on where there is room."""
    with on_ray(model, cluster) as llm:
        llm.generate(PROMPTS[:1], PARAMS)
        first = replace(PARAMS, max_tokens=4)
        results = llm.generate_iter(PROMPTS, [first, *[PARAMS] * (len(PROMPTS) - 1)])
        next(results)
        lost = llm.pids
        cluster.remove_node(cluster.workers.pop(), allow_graceful=False)
        cluster.workers.append(add_node(cluster))
        outputs = sorted(results, key=lambda output: output.index)
        assert llm.summary().num_restarts >= 1
        assert not any(psutil.pid_exists(pid) for pid in lost)
    assert answers(outputs) == alone[1:]


def test_a_batch_run_that_loses_its_node(cluster, model, tmp_path):
    """Without room it ends as when stages fail too often; given again, it does what is left."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    num_lines = write_batch(source)
    options = ["--backend", "ray", "--address", cluster.address, "--max-restarts", "1"]
    # A few requests at a time: the run goes on for seconds after its first result.
    command = run_batch(model, source, target, *options, "--max-num-seqs", "2")
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while run.poll() is None and not (target.exists() and target.read_text()):
        time.sleep(0.01)
    cluster.remove_node(cluster.workers.pop(), allow_graceful=False)
    told, _ = run.communicate(timeout=120)
    assert run.returncode == 3, told
    assert "has room for 1" in told and "Traceback" not in told
    assert 0 < len(texts(target)) < num_lines

    cluster.workers.append(add_node(cluster))
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    here = tmp_path / "here.jsonl"
    subprocess.run(run_batch(model, source, here), check=True, capture_output=True, timeout=120)
    assert len(texts(here)) == num_lines and texts(target) == texts(here)


def test_replicas_on_the_nodes(cluster, model, tmp_path):
    """An engine on each, one output; each with a control port of its own."""
    source, target, here = (tmp_path / f"{name}.jsonl" for name in ("in", "out", "here"))
    num_lines = write_batch(source)
    ray_options = ["--backend", "ray", "--address", cluster.address]
    ports = ["--control-port", str(free_ports(4))]
    command = run_batch(model, source, target, "--replicas", "2", *ray_options, *ports, "-p", "1")
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    assert "replica 1" in told
    run = run_batch(model, source, here)
    subprocess.run(run, check=True, capture_output=True, timeout=120)
    assert len(texts(here)) == num_lines and texts(target) == texts(here)


def write_batch(path):
    """Lines of which the first is short; how many."""
    bodies = [
        {"prompt": prompt, "max_tokens": 300, "temperature": 0, "ignore_eos": True}
        for prompt in PROMPTS * 2
    ]
    bodies[0]["max_tokens"] = 4
    path.write_text(
        "".join(
            json.dumps(
                {"custom_id": str(i), "method": "POST", "url": "/v1/completions", "body": body}
            )
            + "\n"
            for i, body in enumerate(bodies)
        )
    )
    return len(bodies)


def run_batch(model, source, target, *more):
    command = [sys.executable, "-m", "tdpipe.cli.main", "run-batch", "-i", source, "-o", target]
    options = ["--model", model, "-p", "2", "--kv-cache-memory", "4MiB", *more]
    return [str(part) for part in (*command, *options)]


def texts(path):
    """The texts of an output, by line."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["custom_id"]: line["response"]["body"]["choices"][0]["text"] for line in lines}


def test_strangers_on_the_control_port(cluster, model, alone, caplog):
    """10,000 frames while a run is on; nothing of them reaches the engine."""
    port = free_ports(3)
    with on_ray(model, cluster, control_port=port) as llm:
        llm.generate(PROMPTS[:1], PARAMS)
        draw = random.Random(7)
        sent, let_in = [], []
        ports = [port, port + 1, port + 2]
        fuzz = threading.Thread(
            target=lambda: (
                let_in.extend(knock(one) for one in ports),
                sent.extend(raw_frames(one, 3400, draw) for one in ports),
            )
        )
        fuzz.start()
        found = [answers(llm.generate(PROMPTS, PARAMS))]
        while fuzz.is_alive():
            found.append(answers(llm.generate(PROMPTS, PARAMS)))
        fuzz.join()
        assert llm.summary().num_restarts == 0
    assert sum(sent) >= 10_000 and let_in == [False, False, False]
    assert all(one == alone for one in found) and not caplog.records


def free_ports(count):
    """The first of so many neighbours that nobody uses now."""
    for first in range(20_000, 60_000, 100):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise AssertionError("no free ports")


def test_links_between_nodes(cluster, tmp_path):
    """The matrix for `plan --links`, measured where stages would be."""
    path = tmp_path / "links.json"
    command = ["profile", "-p", "2", "--backend", "ray", "--address", cluster.address]
    assert main([*command, "--links", str(path)]) == 0
    found = load_links(path)
    assert found.num_ranks == 2 and found.backend == "gloo" and len(found.pairs) == 2
    assert min(one.bytes_per_s for one in found.pairs) > 1e6


def test_what_cannot_be_had(cluster, model, monkeypatch):
    """One clear line each, before anything runs."""
    with pytest.raises(ConfigError, match=r"pipeline_parallel_size=3: .* has room for 2"):
        on_ray(model, cluster, pipeline_parallel_size=3)
    with pytest.raises(ConfigError, match=r"pipeline_parallel_size=1: .* 2 CPU on one node"):
        on_ray(model, cluster, pipeline_parallel_size=1, tensor_parallel_size=2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"control_port={port}: port .* cannot be had"):
            on_ray(model, cluster, control_port=port)
    ray.shutdown()
    with pytest.raises(ConfigError, match=r"ray_address='127.0.0.1:9': no Ray cluster answers"):
        LLM(model, distributed_executor_backend="ray", ray_address="127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="Ray is not installed"):
        LLM(model, distributed_executor_backend="ray")
