"""Smoke runs of what measures cores and starts no stages."""

import json

import pytest

import make_tables
from benchmark_runs import run


@pytest.mark.parametrize("kind", [[], ["--quantization", "int8"]])
def test_limit(tmp_path, kind):
    run("limit.py", "--smoke", *kind, "--folder", str(tmp_path))
    [path] = tmp_path.iterdir()
    result = json.loads(path.read_text())
    assert result["floor_s"] == pytest.approx(sum(result["core_s"].values()) / 2)
    # Runs on file are set beside it only if they are of such a machine.
    result["machine"]["vectors"] = "avx2"
    made = make_tables.TABLES[path.stem](result)
    assert "| matrix products |" in made and "tdpipe adaptive" in made
    result["machine"]["vectors"] = "none"
    assert "reached: none recorded" in make_tables.TABLES[path.stem](result)


def test_projection_rates(tmp_path):
    shown = run("projection_rates.py", "--smoke", "--folder", str(tmp_path))
    result = json.loads((tmp_path / "projection_rates.json").read_text())
    for of_count in result["operations_per_s"].values():
        assert set(of_count) == {"4", "8"} and min(of_count.values()) > 1e8
    assert "| rows | tdpipe | oneDNN | torch | oneDNN int8 |" in shown
