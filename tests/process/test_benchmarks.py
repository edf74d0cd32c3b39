"""A smoke run of each benchmark, and README tables that are those of the result files."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

import length_effect
import make_tables
import output_lengths
import recorded_runs
import simulated_vs_real
from tdpipe.lengths.length_table import write_length_table
from workload_lognormal import make_workload

ROOT = Path(__file__).parents[2]


def run(script, *arguments):
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_peers(tmp_path):
    shown = run("peers.py", "--smoke", "--folder", str(tmp_path))
    result = json.loads((tmp_path / "peers.json").read_text())
    assert set(result["runs"]) == {"transformers", "tdpipe adaptive"}
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
    for phases in result["stages"]:
        # The parts of all phases are the whole run, but for its beginning and end.
        total_s = sum(sum(parts.values()) for parts in phases.values())
        assert 0.8 * result["seconds"] < total_s < 1.2 * result["seconds"] + 0.5
        decode = phases["decode"]
        assert min(decode["matrix products"], decode["attention"], decode["norms"]) > 0
    assert result["stages"][1]["decode"]["sampling"] > 0
    assert "| 1 | decode |" in make_tables.TABLES["breakdown"](result)


@pytest.mark.parametrize("kind", [[], ["--quantization", "int8"]])
def test_limit(tmp_path, kind):
    run("limit.py", "--smoke", *kind, "--folder", str(tmp_path))
    [path] = tmp_path.iterdir()
    result = json.loads(path.read_text())
    assert result["floor_s"] == pytest.approx(sum(result["core_s"].values()) / 2)
    made = make_tables.TABLES[path.stem](result)
    assert "| matrix products |" in made and "tdpipe adaptive" in made


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
    exact, rounded = result["perplexity"]["float32"], result["perplexity"]["int8"]
    assert exact != rounded and abs(rounded / exact - 1) < 0.1
    assert "| int8 |" in make_tables.TABLES["quantization"](result)


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


def test_paper(tmp_path):
    run("paper.py", "--smoke", "--parts", "grid,memory", "--folder", str(tmp_path))
    summary = json.loads((tmp_path / "paper_grid.json").read_text())["summary"]
    assert len(summary["cells"]) == 12 and summary["geometric_mean_ratio"] > 0.9
    memory = json.loads((tmp_path / "paper_memory.json").read_text())["runs"]
    assert {run["kv_share"] for run in memory} == {0.67, 0.38, 0.19, 0.10}
    # The rows of one scheduler made anew are the same, those of the others are kept.
    again = ("--schedulers", "adaptive", "--folder", str(tmp_path))
    run("paper.py", "--smoke", "--parts", "memory", *again)
    record = json.loads((tmp_path / "paper_memory.json").read_text())
    assert record["runs"] == memory and record["kept"]["but"] == ["adaptive"]


def test_length_effect(tmp_path):
    run("length_effect.py", "--smoke", "--folder", str(tmp_path))
    names = ("length_effect", "length_effect_real", "length_cost")
    effect, real, cost = (json.loads((tmp_path / f"{name}.json").read_text()) for name in names)
    assert set(effect["to_oracle"]) == {"td-pipe", "td-pipe-expected", "adaptive"}
    for found in effect["to_oracle"].values():
        assert set(found) == {"oracle", "constant", "max-tokens", "online", "text"}
        assert found["oracle"]["mean"] == 1.0 and 0.5 < found["text"]["least"] < 1.5
    assert set(real["to_oracle"]["td-pipe"]) == {"oracle", "constant"}
    assert 0 < cost["text"]["share"] < 0.05
    for name, result in zip(names, (effect, real, cost), strict=True):
        assert "| oracle |" in make_tables.TABLES[name](result) or name == "length_cost"


def test_length_accuracy(tmp_path):
    """Over a made-up table: what its tokens tell is learned."""
    table, files = length_effect.made_up(tmp_path)
    write_length_table(tmp_path / "table.jsonl", table)
    given = ("--table", str(tmp_path / "table.jsonl"), "--predictors", str(files["text"]))
    hinted = ("--other", str(tmp_path / "table.jsonl"), "--folder", str(tmp_path))
    run("length_accuracy.py", *given, *hinted)
    result = json.loads((tmp_path / "length_accuracy.json").read_text())
    found = result["predictors"]
    assert set(found) == {"oracle", "constant", "max-tokens", "text", "hints"}
    assert found["oracle"]["class_accuracy"] == found["hints"]["class_accuracy"] == 1.0
    assert found["text"]["class_accuracy"] > found["constant"]["class_accuracy"]
    assert found["text"]["mean_error_tokens"] < found["constant"]["mean_error_tokens"]
    assert "| text |" in make_tables.TABLES["length_accuracy"](result)


def test_output_lengths(tmp_path):
    """Kept and restored, they are a batch output that `tdpipe lengths collect` would read."""
    answers = []
    for number, reason in enumerate(("stop", "length", "abort")):
        body = {"choices": [{"finish_reason": reason}], "usage": {"completion_tokens": 5 + number}}
        response = {"status_code": 200, "body": body}
        answers.append({"custom_id": f"train/{number}", "response": response})
    answers.append({"custom_id": "test/9", "response": None, "error": {}})
    results, again = tmp_path / "results.jsonl", tmp_path / "again.jsonl"
    results.write_text("".join(json.dumps(one) + "\n" for one in answers))
    there = ("--name", "lengths", "--folder", str(tmp_path))
    run("output_lengths.py", "keep", str(results), *there)
    run("output_lengths.py", "restore", str(again), *there)
    kept = {"train/0": [5, "stop"], "train/1": [6, "length"]}
    assert output_lengths.lengths_of(again) == output_lengths.lengths_of(results) == kept


def test_decision_cost(tmp_path):
    run("decision_cost.py", "--smoke", "--folder", str(tmp_path))
    runs = json.loads((tmp_path / "decision_cost.json").read_text())["runs"]
    assert {found["scheduler"] for found in runs} >= {"adaptive", "td-pipe"}
    assert all(0 < found["share"] < 0.2 for found in runs)


def test_plan_check(tmp_path):
    run("plan_check.py", "--smoke", "--cells", "L20/*/sharegpt", "--folder", str(tmp_path))
    cells = json.loads((tmp_path / "plan_check.json").read_text())["cells"]
    assert [cell["model"] for cell in cells] == ["llama-2-13b", "qwen2.5-32b"]
    for cell in cells:
        assert 1.0 <= cell["ratio"] < 1.1 and cell["pick"] in cell["simulated"]
        # No candidate is lost: either simulated, or pruned by its bound.
        assert cell["num_simulated"] == len(cell["simulated"]) and cell["num_pruned"] > 100


def write_recordings(folder, requests=8):
    """A tiny sample of the recordings' format: a request each 0.1 s, 50 tokens/s for each."""
    rows = []
    for index in range(requests):
        queued = 50.0 + 0.101 * index  # 1 ms later for each request before it
        row = {"input_toks": 100 + index, "output_toks": 21, "arrival_time": 1e9 + 0.1 * index}
        rows.append(row | {"queued_ts": queued, "first_token_ts": queued + 0.1})
        rows[-1] |= {"scheduled_ts": queued, "last_token_ts": queued + 0.5}
    (folder / "vllm_runs").mkdir()
    for run in recorded_runs.RUNS:
        path = folder / "vllm_runs" / f"{run.name}.requests.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_recorded_runs(tmp_path):
    write_recordings(tmp_path)
    shown = run("recorded_runs.py", "--smoke", "--data", str(tmp_path), "--folder", str(tmp_path))
    result = json.loads((tmp_path / "recorded_runs.json").read_text())
    assert [one["name"] for one in result["runs"]] == [run.name for run in recorded_runs.RUNS]
    for one in result["runs"]:
        recorded = one["recorded"]
        assert recorded["makespan_s"] == pytest.approx(0.707 + 0.5, abs=1e-5)
        assert recorded["output_tokens_per_s"] == pytest.approx(8 * 21 / 1.207, rel=1e-4)
        assert recorded["ttft_p50_s"] == pytest.approx(0.1035, abs=1e-5)
        assert recorded["tpot_mean_s"] == pytest.approx(0.02)
        assert one["decode_tail"]["recorded_step_s"] == pytest.approx(0.02)
        assert one["simulated"]["makespan_s"] > 0.7 and 0 < one["completion_distance"] <= 1
        assert one["name"] in shown
    assert "1x RTX-4090" in make_tables.recorded_runs(result)


def test_recorded_runs_without_their_data(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "recorded_runs.py")]
    command += ["--data", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "--data" in done.stderr


def test_distance_of_completions():
    def served(*ends_s):
        return [recorded_runs.Served(1, 1, 0.0, end_s, end_s) for end_s in ends_s]

    assert recorded_runs.completion_distance(served(1, 2), served(1, 2)) == 0
    assert recorded_runs.completion_distance(served(1, 2), served(3, 4)) == 1
    assert recorded_runs.completion_distance(served(1, 3, 3, 3), served(2, 3, 4, 5)) == 0.5


def test_workload_has_the_totals_it_promises():
    workload = make_workload(200)
    assert sum(len(item.prompt) for item in workload) == 28659
    assert sum(item.output_tokens for item in workload) == 33602
    assert make_workload(200) == workload != make_workload(200, seed=1)


def test_tables_are_up_to_date():
    for page in make_tables.PAGES:
        text = (ROOT / page).read_text()
        assert make_tables.render(text) == text
        assert len(make_tables.MARKS.findall(text)) == text.count("<!-- table:") > 0
