"""A smoke run of each benchmark that starts stages."""

import json
import random

import make_tables
import simulated_vs_real
from benchmark_runs import run


def test_peers(tmp_path):
    shown = run("peers.py", "--smoke", "--folder", str(tmp_path))
    result = json.loads((tmp_path / "peers.json").read_text())
    assert set(result["runs"]) == {"transformers", "tdpipe adaptive", "tdpipe replicas"}
    assert all(entry["rounds"][0]["seconds"] > 0 for entry in result["runs"].values())
    assert result["commit"]["id"] and result["versions"]["torch"] and "| x transformers |" in shown


def test_stage_busy(tmp_path):
    """Even the short form keeps both stages at work for most of the decode phase."""
    run("stage_busy.py", "--smoke", "--folder", str(tmp_path))
    result = json.loads((tmp_path / "stage_busy.json").read_text())
    assert len(result["decode_busy_shares"]) == 2 and min(result["decode_busy_shares"]) > 0.5


def test_breakdown(tmp_path):
    run("breakdown.py", "--smoke", "--folder", str(tmp_path))
    result = json.loads((tmp_path / "breakdown.json").read_text())
    for one in result["runs"].values():
        for phases in one["stages"]:
            # The parts of all phases are the whole run, but for its beginning and end.
            total_s = sum(sum(parts.values()) for parts in phases.values())
            assert 0.8 * one["seconds"] < total_s < 1.2 * one["seconds"] + 0.5
    stages = result["runs"]["td-pipe"]["stages"]
    for phases in stages:
        decode = phases["decode"]
        assert min(decode["matrix products"], decode["attention"], decode["norms"]) > 0
    assert stages[1]["decode"]["sampling"] > 0
    table = make_tables.TABLES["breakdown"](result)
    assert "| td-pipe | 1 | decode |" in table and "| adaptive | 0 | mixed |" in table


def test_stage_memory(tmp_path):
    """Also that a stage holds little beside its weights and a cache that is all used."""
    run("stage_memory.py", "--smoke", "--folder", str(tmp_path))
    result = json.loads((tmp_path / "stage_memory.json").read_text())
    assert result["peak_kv_share"] > 0.8
    assert all(one["beside_bytes"] < 800 << 20 for one in result["stages"])
    assert "| 1 |" in make_tables.TABLES["stage_memory"](result)


def test_prefix_sharing(tmp_path):
    run("prefix_sharing.py", "--smoke", "--folder", str(tmp_path))
    result = json.loads((tmp_path / "prefix_sharing.json").read_text())
    [on], [off] = result["runs"]["on"], result["runs"]["off"]
    assert on["cached_share"] > 0.5 and off["cached_share"] == 0
    assert on["peak_kv_share"] < off["peak_kv_share"] and result["same_outputs"] > 0.9
    assert "| off |" in make_tables.TABLES["prefix_sharing"](result)


def test_quantization(tmp_path):
    run("quantization.py", "--smoke", "--folder", str(tmp_path))
    result = json.loads((tmp_path / "quantization.json").read_text())
    exact = result["perplexity"]["float32"]
    assert 0 < abs(result["perplexity"]["int8-kv16"] / exact - 1) < 0.1
    assert result["agreement"]["int8-kv16"]["answers"] == 2
    table = make_tables.TABLES["quantization"](result)
    assert "| float32 | float32 |" in table and "| int8 | float16 |" in table


def test_simulated_vs_real(tmp_path):
    """Far too short to predict; but the busy time of what ran is told about right."""
    named = ("--schedulers", "adaptive,tp-hybrid", "--workloads", "long prompts")
    run("simulated_vs_real.py", "--smoke", *named, "--folder", str(tmp_path))
    result = json.loads((tmp_path / "simulated_vs_real.json").read_text())
    assert set(result["workloads"]) == {"long prompts"}
    for found in result["workloads"].values():
        assert len(found["schedulers"]) == 2
        for row in found["schedulers"].values():
            assert 0.3 < row["measured_tokens_per_s"] / row["simulated_tokens_per_s"] < 3
            assert 1 <= row["measured_rank"] <= 2 and 1 <= row["simulated_rank"] <= 2
            assert 0 < max(row["measured_busy_shares"]) <= 1
        assert 0 < found["schedulers"]["TP2 tp-hybrid"]["collective_share"] < 1
        assert found["schedulers"]["PP2 adaptive"]["collective_share"] == 0
    assert "largest error" in make_tables.simulated_vs_real(result)
    # Figures made anew from the raw runs are the same.
    simulated_vs_real.again(tmp_path / "simulated_vs_real.json")
    assert json.loads((tmp_path / "simulated_vs_real.json").read_text()) == result


def test_slow_link(tmp_path):
    run("slow_link.py", "--smoke", "--links", "memory", "--folder", str(tmp_path))
    result = json.loads((tmp_path / "slow_link.json").read_text())
    found = result["links"]["memory"]
    assert all(0 < time_s < 1 for times in found["alone"].values() for time_s in times)
    assert 0 < found["runs"]["TP2"][0]["collective_share"] < 1
    assert "| memory |" in make_tables.TABLES["slow_link"](result)


def test_batch_memory(tmp_path):
    run("batch_memory.py", "--smoke", "--folder", str(tmp_path))
    result = json.loads((tmp_path / "batch_memory.json").read_text())
    short, long = result["runs"]
    assert (short["lines"], long["lines"]) == (10, 1000) and long["rate_share"] > 0.5
    assert long["engine_mib"]["end"] < long["engine_mib"]["tenth"] + 50
    assert len(long["stages_mib"]["end"]) == 2


def test_faults(tmp_path):
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    run("faults.py", "--smoke", "--first-seed", str(seed), "--folder", str(tmp_path))
    result = json.loads((tmp_path / "faults.json").read_text())
    assert (result["num_runs"], result["num_with_problems"]) == (1, 0)


def test_length_effect_and_cost(tmp_path):
    run("length_effect.py", "--smoke", "--parts", "real,cost", "--folder", str(tmp_path))
    names = ("length_effect_real", "length_cost")
    real, cost = (json.loads((tmp_path / f"{name}.json").read_text()) for name in names)
    assert set(real["to_oracle"]["td-pipe"]) == {"oracle", "constant"}
    assert 0 < cost["text"]["share"] < 0.05
    assert "| oracle |" in make_tables.TABLES["length_effect_real"](real)
    assert make_tables.TABLES["length_cost"](cost)
