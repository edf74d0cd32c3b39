"""A smoke run of the benchmark for cards, on CPU, and the service that divides a card."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cuda
import multi_process_service
from model_steps import against_roofline
from multi_process_service import CONTROL, PIPES, card_in_parts
from random_models import RANDOM_MODELS
from tdpipe.execution.probe_batches import Probe

ROOT = Path(__file__).parents[2]


def test_all_parts_on_cpu(tmp_path):
    """The same way as on a card, but for the service."""
    command = [sys.executable, str(ROOT / "benchmarks" / "cuda.py"), "--smoke", "--stages", "2"]
    command += ["--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    names = ("cuda_kernels", "cuda_workload", "cuda_four_stages")
    kernels, workload, stages = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in names
    )
    [found] = kernels["models"].values()
    assert len(found["steps"]) == 4 and not found["left_out"]
    for row in found["steps"]:
        assert 0 < row["launch_s"] <= row["step_s"] and 0 < row["roofline_share"] < 2
    assert found["least_decode_bandwidth_share"] > 0 and found["least_prefill_matmul_share"] > 0
    assert (workload["num_stages"], stages["num_stages"]) == (1, 2)
    assert set(workload["schedulers"]) == {"PP1 adaptive"}
    assert set(stages["schedulers"]) == {"PP2 adaptive", "PP2 td-pipe"}
    for row in stages["schedulers"].values():
        [one] = row["rounds"]
        assert len(one["measured"]["busy_shares"]) == 2 and row["measured_tokens_per_s"] > 0
        assert row["simulated_tokens_per_s"] > 0 and "error" in row
    # Hidden states took the way through host memory, and that was measured for the simulation.
    assert stages["profiles"][0]["link_latency_s"] > 0
    assert stages["table"] in done.stdout and kernels["table"] in done.stdout


def test_unknown_names_are_refused_at_once(capsys):
    for arguments in (["--parts", "kernel"], ["--models", "gpt"], ["--schedulers", "best"]):
        with pytest.raises(SystemExit):
            cuda.options_of(arguments)
        assert "is none of" in capsys.readouterr().err


def test_a_step_at_the_roofline():
    """Decode reads weights and cache; its share is 1 where it takes just as long as that."""
    shape = RANDOM_MODELS["llama-2-13b"].shape
    probe = Probe(num_decodes=64, context_tokens=512)
    weights = 40 * (4 * 5120 * 5120 + 3 * 5120 * 13824) + 32000 * 5120
    num_bytes = 2 * weights + 64 * 512 * 2 * 5120 * 2 * 40
    step_s = num_bytes / 4e12
    found = against_roofline(shape, probe, step_s, 4e12, 8e14)
    assert found["bytes"] == num_bytes
    assert found["bandwidth_share"] == pytest.approx(1) == pytest.approx(found["roofline_share"])
    # A prefill of as many tokens computes: 64 times the rows, and no read of the cache.
    prefill = against_roofline(shape, Probe(1, 4096, True), 1.0, 4e12, 8e14)
    dense = 2 * (weights - 32000 * 5120) * 4096 + 2 * 32000 * 5120
    assert prefill["operations"] == dense + 4 * 40 * 40 * 128 * (4096 * 4097 // 2)


@pytest.fixture
def control(tmp_path, monkeypatch):
    """A control program that notes what it is told; the probe says what such a machine would."""
    told = tmp_path / "told"
    program = tmp_path / "bin" / CONTROL
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$* $(cat)" >> {told}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setenv(PIPES, str(tmp_path / "nothing"))
    monkeypatch.setattr(multi_process_service, "PROBE", "print(33)")
    return told


def test_a_daemon_is_started_and_stopped(control):
    before = dict(os.environ)
    with pytest.raises(KeyboardInterrupt), card_in_parts(4) as environment:
        assert environment["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "25"
        assert Path(environment[PIPES]).is_dir() and control.read_text() == "-d \n"
        raise KeyboardInterrupt
    assert control.read_text() == "-d \n quit\n"
    assert not Path(environment[PIPES]).exists() and dict(os.environ) == before


def test_a_daemon_of_somebody_elses_is_left_alone(control, tmp_path):
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "control").touch()
    with card_in_parts(2) as environment:
        assert environment[PIPES] == str(tmp_path / "nothing")
        assert environment["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "50"
    assert not control.exists()


def test_a_service_that_does_not_work_is_not_used(control, monkeypatch, capsys):
    monkeypatch.setattr(multi_process_service, "PROBE", "raise OSError('error 805')")
    with card_in_parts(4) as environment:
        assert environment is None
    assert control.read_text() == "-d \n quit\n" and "error 805" in capsys.readouterr().err


def test_without_the_service(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    with card_in_parts(4) as environment:
        assert environment is None
    assert "take turns" in capsys.readouterr().err
