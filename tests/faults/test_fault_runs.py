"""Faults between two runs and in the midst of others; `benchmarks/faults.py` makes all kinds."""

import os
import signal
import tempfile
import time
from pathlib import Path

import pytest

from byte_model import END, write_byte_model
from tdpipe import LLM, RequestFailed, SamplingParams
from tdpipe.execution import fault_injection


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def model(folder):
    return write_byte_model(folder / "model")


def test_an_engine_outlives_its_stages(model, monkeypatch, tmp_path):
    """A kill between two runs, and a request at which stages fail in the midst of others."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(fault_injection.FAULT, f"raise stage=0 token={END}")
    params = SamplingParams(temperature=1.0, seed=3, max_tokens=40, ignore_eos=True)
    prompts = [[number, 5, 9] for number in range(6)]
    with LLM(str(model), pipeline_parallel_size=2, kv_cache_memory="1MiB") as llm:
        whole = llm.generate(prompts, params)
        killed = llm.pids
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)
        assert llm.generate(prompts, params) == whole
        assert llm.summary().num_restarts == 0 and not set(killed) & set(llm.pids)
        with pytest.raises(RequestFailed, match="stage 0: RuntimeError: injected fault"):
            llm.generate([*prompts, [END]], params)
        assert llm.summary().num_restarts == 2
        assert llm.generate(prompts, params) == whole
        assert list(Path(tmp_path).iterdir()) == []  # nothing that a kill could leave behind
    assert list(Path(tmp_path).iterdir()) == []
