"""What the contenders' names stand for, and which of them are held against the floor."""

import json

import pytest

import execution_tables
from peer_tdpipe import settings_of


@pytest.mark.parametrize(
    ("name", "quantization", "kv_cache_dtype"),
    [
        ("adaptive", None, "auto"),
        ("adaptive-int8", "int8", "auto"),
        ("adaptive-kv16", None, "float16"),
        ("adaptive-int8-kv16", "int8", "float16"),
    ],
)
def test_names(name, quantization, kv_cache_dtype):
    assert settings_of(name) == {
        "scheduler": "adaptive", "quantization": quantization, "kv_cache_dtype": kv_cache_dtype,
    }  # fmt: skip


def test_the_floor_is_of_a_cache_in_float32(tmp_path, monkeypatch):
    names = ("vllm", "adaptive", "adaptive-int8", "adaptive-kv16", "adaptive-int8-kv16")
    record = {
        "settings": {"requests": 7, "scale": 1.0},
        "machine": {},
        "runs": {name: {"rounds": [{"seconds": 2.0}]} for name in names},
    }
    (tmp_path / "peers.json").write_text(json.dumps(record))
    monkeypatch.setattr(execution_tables, "RESULTS", tmp_path)
    assert set(execution_tables.recorded_runs(7, False, {})) == {"vllm", "adaptive"}
    assert set(execution_tables.recorded_runs(7, True, {})) == {"adaptive-int8"}
