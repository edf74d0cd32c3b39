"""What a stage computes before it is ready compiles all that a run needs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lone_stage import save_llama, stage_spec
from tdpipe.execution import stage_session
from tdpipe.execution.models.decoder import StageModel
from tdpipe.execution.wire import decode_from_stage

# Kernels are a process's own: in a new one, those that a run adds to the warm-up's are counted.
SCRIPT = """
import json, sys
from pathlib import Path
import torch
from chain import BLOCK_SIZE, Chain
from tdpipe.execution import row_kernels
from tdpipe.execution.attention import numba_kernels
from tdpipe.execution.attention.numba_attention import NumbaAttention
from tdpipe.execution.warm_up import warm_up_plans

def compiled():
    kernels = {**vars(row_kernels), **vars(numba_kernels)}
    return {name: len(kernel.signatures) for name, kernel in kernels.items()
            if hasattr(kernel, "signatures")}

chain = Chain(Path(sys.argv[1]), [1, 1], NumbaAttention, stored=getattr(torch, sys.argv[3]))
for plan in warm_up_plans(BLOCK_SIZE)[: int(sys.argv[2])]:
    chain.table.apply(plan)
    chain._run(plan, 0)
chain.table.clear()
before = compiled()
chain.step([(1, 0, list(range(30))), (2, 0, [5])], num_prefills=2)
chain.step([(1, 30, [7, 8, 9]), (3, 0, [4] * 9), (2, 1, [6])], num_prefills=2)
chain.step([(1, 33, [7]), (2, 2, [6]), (3, 9, [1])], num_prefills=0)
print(json.dumps([before, compiled()]))
"""


@pytest.mark.parametrize(("num_plans", "stored"), [(1, "float32"), (2, "float32"), (2, "float16")])
def test_a_run_compiles_nothing_more(num_plans, stored, tmp_path):
    save_llama(tmp_path)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(num_plans), stored]
    tests = Path(__file__).parent.parent
    run = subprocess.run(command, capture_output=True, text=True, cwd=tests, timeout=300)
    assert run.returncode == 0, run.stderr
    before, after = json.loads(run.stdout)
    assert before["attend"] == num_plans
    # Without the decode among them the warm-up is too little, which shows that this can be seen.
    assert (after == before) == (num_plans == 2)


@pytest.mark.parametrize("stage", [0, 1])
def test_a_stage_computes_them_before_it_says_that_it_is_ready(stage, tmp_path, monkeypatch):
    save_llama(tmp_path)
    spec = stage_spec(tmp_path, stage=stage, num_stages=2, first_layer=stage, end_layer=stage + 1)
    happened = []

    class ToEngine:
        def send(self, message):
            happened.append(type(decode_from_stage(message)).__name__)

    computes = StageModel.forward

    def forward(model, given, *others):
        happened.append(len(given))
        return computes(model, given, *others)

    monkeypatch.setattr(StageModel, "forward", forward)
    monkeypatch.setattr(stage_session, "join_group", lambda *_: None)
    with torch.inference_mode():
        session = stage_session.StageSession(spec, None, ToEngine())
        session._load()
        session._allocate(4)
    assert happened == ["Loaded", 16, 1, "Ready"]
