"""Measuring real stages: times that grow with the load, and that tell what other batches take."""

import json
from dataclasses import replace
from statistics import median

import pytest

from profiled_pipeline import SMOKE_GRID
from tdpipe.cli import profile
from tdpipe.cli.main import main
from tdpipe.config.engine_config import EngineConfig
from tdpipe.config.profile_file import load_profile
from tdpipe.cost.cost_model import decode_load, prefill_load
from tdpipe.cost.profile_table import ProfileTable
from tdpipe.cost.profiled_cost import StageProfile
from tdpipe.execution import stage_profiler
from tdpipe.execution.models.model_source import resolve_model
from tdpipe.execution.probe_batches import Probe
from tdpipe.execution.stage_bench import StageBench
from tdpipe.execution.stage_profiler import (
    FULL_GRID,
    QUICK_GRID,
    at_mean_speed,
    fit_stage,
    profile_stages,
)
from tdpipe.frontend import stage_profile_cache
from tdpipe.frontend.pipeline_setup import resolve_setup

MODEL = "smollm2-135m-instruct"
CONFIG = EngineConfig(MODEL, pipeline_parallel_size=2, device="cpu", kv_cache_memory="256MiB")
OUTSIDE = [
    Probe(1, 100, samples=True),
    Probe(3, 24, samples=True),
    Probe(num_decodes=10, context_tokens=100),
    Probe(1, 48, num_decodes=8, context_tokens=64),
]


@pytest.fixture(scope="module")
def pipeline():
    """(setup, limits, executor) of two stages."""
    source = resolve_model(MODEL)
    setup = resolve_setup(CONFIG, source)
    executor = setup.executor(source.folder)
    try:
        yield setup, setup.allocate(executor), executor
    finally:
        executor.close()


@pytest.fixture(scope="module")
def cost(pipeline):
    setup, limits, executor = pipeline
    return profile_stages(executor, limits, setup.layers, QUICK_GRID)


def test_times_grow_with_the_load(cost, pipeline):
    assert cost.layers == pipeline[0].layers and cost.num_stages == 2
    for stage in range(2):
        prefills = [cost.stage_time_s(stage, prefill_load(0, n)) for n in (8, 32, 128, 512)]
        decodes = [cost.stage_time_s(stage, decode_load(n, 100 * n)) for n in (1, 32, 256)]
        contexts = [cost.stage_time_s(stage, decode_load(8, 8 * n)) for n in (16, 1000)]
        for times in (prefills, decodes, contexts):
            assert times == sorted(times) and 1e-4 < times[0] < times[-1] < 10
    assert cost.stages[0].row_s == cost.stages[0].projection_s == 0.0
    assert cost.stages[1].projection_s + cost.stages[1].row_s > 0
    assert 0 < cost.transfer_time_s(1) < 0.1
    assert 0 < cost.engine_s < 0.05


@pytest.mark.parametrize("probe", OUTSIDE, ids=["prompt", "prompts", "decodes", "mixed"])
def test_batches_outside_the_grid(cost, pipeline, probe):
    _, limits, executor = pipeline
    bench = StageBench(executor, limits)
    # The profile is that of a mean speed, so what it is held against is no extreme either.
    rounds = [bench.busy_s([probe])[0] for _ in range(5)]
    measured = [median(times) for times in zip(*rounds, strict=True)]
    told = [cost.stage_time_s(stage, probe.load) for stage in range(2)]
    # Usually within a fifth; shared machines slow down by half for seconds at a time.
    ratios = [told_s / measured_s for told_s, measured_s in zip(told, measured, strict=True)]
    assert all(0.4 < ratio < 2.5 for ratio in ratios), ratios


def test_the_pipeline_is_left_clean(cost, pipeline):
    _, limits, executor = pipeline
    StageBench(executor, limits).end()
    assert not executor.spans and executor.has_room()


def test_a_small_cache_leaves_probes_out(pipeline):
    setup, limits, executor = pipeline
    tiny = replace(limits, num_blocks=1, max_model_len=16)
    coarse = profile_stages(executor, tiny, setup.layers, replace(QUICK_GRID, rounds=1))
    assert coarse.stages[0].dense.tokens == (8,) and coarse.stages[0].pair_s == 0.0
    large = {"prefill_tokens": (64,), "row_tokens": 64, "decode_sequences": (4,)}
    none = replace(QUICK_GRID, **large, rounds=1)
    least = profile_stages(executor, tiny, setup.layers, none)
    assert least.stages[1].dense.tokens == (1,) and least.stages[1].decode.tokens == (1,)


@pytest.mark.parametrize("grid", [QUICK_GRID, FULL_GRID])
@pytest.mark.parametrize("is_last", [False, True])
def test_the_fit_finds_the_terms_that_made_the_times(grid, is_last):
    slope = [0.002 + 1e-4 * n for n in (1, 8, 1024)]
    table = ProfileTable((1, 8, 1024), tuple(slope))
    rates = {"row_s": 3e-4, "projection_s": 4e-3} if is_last else {}
    truth = StageProfile(table, table.scaled(2), pair_s=2e-8, kv_token_s=3e-7, **rates)
    fitted = fit_stage({p: truth.time_s(p.load) for p in grid.probes()}, grid, is_last)
    for name in ("pair_s", "kv_token_s", "row_s", "projection_s"):
        assert getattr(fitted, name) == pytest.approx(getattr(truth, name), abs=1e-12), name
    assert fitted.dense.tokens == grid.prefill_tokens
    assert fitted.decode.tokens == tuple(sorted({*grid.decode_sequences, grid.kv_sequences}))
    for n in (8, 100, 128):
        assert fitted.dense.time_s(n) == pytest.approx(table.time_s(n))
        assert fitted.decode.time_s(n) == pytest.approx(2 * table.time_s(n))


def test_a_processor_that_changes_its_speed():
    """Slow in one turn of three, and one batch disturbed: probes compare as if it was not so."""
    truth = {QUICK_GRID.single(n): 0.01 + 1e-4 * n for n in (8, 32, 64, 128)}
    turns = {probe: [time_s, 1.5 * time_s, time_s] for probe, time_s in truth.items()}
    turns[QUICK_GRID.single(64)][2] *= 3
    decode = QUICK_GRID.decode(4, 16)
    settled = at_mean_speed({**turns, decode: [0.02, 0.02]})
    assert settled == pytest.approx({**{p: 3.5 / 3 * truth[p] for p in truth}, decode: 0.02})


def test_a_dip_is_noise():
    grid = QUICK_GRID
    times = {grid.single(8): 0.02, grid.single(32): 0.01, grid.decode(1, 16): 0.01}
    assert fit_stage(times, grid, False).dense.seconds == (0.01, 0.01)


def test_cache(tmp_path, monkeypatch, cost, pipeline):
    layers = pipeline[0].layers
    key = stage_profile_cache.profile_key(resolve_model(MODEL), "float32", "cpu", layers, 1)
    monkeypatch.setenv("TDPIPE_CACHE", str(tmp_path))
    assert stage_profile_cache.load_cached_profile(key) is None
    path = stage_profile_cache.store_profile(key, cost)
    assert path.is_relative_to(tmp_path)
    assert stage_profile_cache.load_cached_profile(key) == cost
    assert stage_profile_cache.load_cached_profile(replace(key, model="a link to it")) == cost
    for change in ({"dtype": "bfloat16"}, {"layers": (1, 29)}, {"machine": "abacus"}):
        assert stage_profile_cache.load_cached_profile(replace(key, **change)) is None
    path.write_text("{")
    assert stage_profile_cache.load_cached_profile(key) is None


def test_command(tmp_path, monkeypatch, capsys):
    folder = str(resolve_model(MODEL).folder)  # before the cache moves: it is exported there
    monkeypatch.setattr(stage_profiler, "FULL_GRID", SMOKE_GRID)
    monkeypatch.setenv("TDPIPE_CACHE", str(tmp_path / "cache"))
    output = tmp_path / "profile.json"
    command = ["profile", "--model", folder, "-p", "2", "--partition", "16,14", "--device", "cpu"]
    command += ["--kv-cache-memory", "128MiB"]
    assert main([*command, "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    (kept,) = (tmp_path / "cache" / "profiles").iterdir()
    for word in (
        "stage 1",
        "prefill of 512 tokens",
        "decode of 64",
        "link",
        "engine",
        output.name,
        kept.name,
    ):
        assert word in shown
    assert kept.read_text() == output.read_text()
    key, cost = load_profile(output)
    assert (key.layers, key.dtype, cost.num_stages) == ((16, 14), "float32", 2)

    monkeypatch.setattr(profile, "measured", lambda config, grid: (key, cost))
    assert main([*command, "--json", "--quick"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads(output.read_text())
    assert "measured in" in printed.err and "cache" not in printed.err


@pytest.mark.parametrize(
    "options",
    [["--output", "."], ["--model", "absent"], ["-p", "0"], ["--partition", "1,2"]],
)
def test_command_refuses_in_one_line(options, capsys):
    assert main(["profile", *options]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and shown.err.startswith("error: ")
