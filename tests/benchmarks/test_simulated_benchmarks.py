"""A smoke run of each benchmark that simulates, and README tables that are of the result files."""

import json
import subprocess
import sys

import pytest

import length_effect
import make_tables
import output_lengths
import recorded_runs
from benchmark_runs import ROOT, run
from tdpipe.lengths.length_table import write_length_table
from workload_lognormal import make_workload


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
    assert record["runs"] == memory and "adaptive" not in record["kept"]
    assert record["kept"]["td-pipe"] == record["commit"]


def test_length_effect(tmp_path):
    simulated = ("--smoke", "--parts", "simulated", "--folder", str(tmp_path))
    run("length_effect.py", *simulated)
    effect = json.loads((tmp_path / "length_effect.json").read_text())
    assert set(effect["to_oracle"]) == {"td-pipe", "td-pipe-expected", "adaptive"}
    for found in effect["to_oracle"].values():
        assert set(found) == {"oracle", "constant", "max-tokens", "online", "text"}
        assert found["oracle"]["mean"] == 1.0 and 0.5 < found["text"]["least"] < 1.5
    run("length_effect.py", *simulated, "--anew", "adaptive,oracle")
    again = json.loads((tmp_path / "length_effect.json").read_text())
    assert again["runs"] == effect["runs"] and again["kept"]["but"] == ["adaptive", "oracle"]
    assert "| oracle |" in make_tables.TABLES["length_effect"](effect)


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
    smoke = ("--smoke", "--cells", "L20/*/sharegpt", "--folder", str(tmp_path))
    run("plan_check.py", *smoke)
    cells = json.loads((tmp_path / "plan_check.json").read_text())["cells"]
    run("plan_check.py", *smoke, "--cells", "L20/llama*/sharegpt", "--anew", "adaptive")
    (again,) = json.loads((tmp_path / "plan_check.json").read_text())["cells"]
    assert again["best"] == cells[0]["best"]
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
    for recorded in recorded_runs.RUNS:
        path = folder / "vllm_runs" / f"{recorded.name}.requests.jsonl"
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
