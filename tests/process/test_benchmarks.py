"""A smoke run of each benchmark, and README tables that are those of the result files."""

import json
import subprocess
import sys
from pathlib import Path

import make_tables
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
    schedulers = ("adaptive", "td-pipe", "pp-separate", "pp-hybrid")
    names = {"transformers", *(f"tdpipe {scheduler}" for scheduler in schedulers)}
    assert set(result["runs"]) == names
    assert all(entry["rounds"][0]["seconds"] > 0 for entry in result["runs"].values())
    assert result["commit"]["id"] and result["versions"]["torch"] and "| x transformers |" in shown


def test_stage_busy(tmp_path):
    """Even the short form keeps both stages at work for most of the decode phase."""
    run("stage_busy.py", "--smoke", "--folder", str(tmp_path))
    result = json.loads((tmp_path / "stage_busy.json").read_text())
    assert len(result["decode_busy_shares"]) == 2 and min(result["decode_busy_shares"]) > 0.5


def test_paper(tmp_path):
    run("paper.py", "--smoke", "--parts", "grid,memory", "--folder", str(tmp_path))
    summary = json.loads((tmp_path / "paper_grid.json").read_text())["summary"]
    assert len(summary["cells"]) == 24 and summary["geometric_mean_ratio"] > 0.9
    memory = json.loads((tmp_path / "paper_memory.json").read_text())["runs"]
    assert {run["kv_share"] for run in memory} == {0.67, 0.38, 0.19, 0.10}


def test_workload_has_the_totals_it_promises():
    workload = make_workload(200)
    assert sum(len(item.prompt) for item in workload) == 28659
    assert sum(item.output_tokens for item in workload) == 33602
    assert make_workload(200) == workload != make_workload(200, seed=1)


def test_tables_are_up_to_date():
    for page in make_tables.PAGES:
        text = (ROOT / page).read_text()
        assert make_tables.render(text) == text
        assert make_tables.MARKS.findall(text)
