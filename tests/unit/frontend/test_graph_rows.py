"""Where stages record their decodes as graphs."""

from dataclasses import replace

import pytest

from tdpipe.config.engine_config import EngineConfig
from tdpipe.execution.models.model_source import resolve_model
from tdpipe.frontend import pipeline_setup
from tdpipe.frontend.pipeline_setup import resolve_setup

MODEL = "smollm2-135m-instruct"


@pytest.mark.parametrize(
    ("device", "settings", "rows"),
    [
        ("cuda", {}, 256),
        ("cuda", {"max_num_seqs": 48}, 48),
        ("cuda", {"enforce_eager": True}, 0),
        ("cuda", {"tensor_parallel_size": 3}, 0),
        ("cpu", {}, 0),
    ],
)
def test_graph_rows(device, settings, rows, monkeypatch):
    monkeypatch.setattr(pipeline_setup, "load_cached_profile", lambda key: None)
    given = []
    monkeypatch.setattr(pipeline_setup, "PipelineExecutor", lambda spec, *_: given.append(spec))
    source = resolve_model(MODEL)
    # Resolved on CPU: there may be no card.
    setup = resolve_setup(EngineConfig(MODEL, device="cpu", **settings), source)
    replace(setup, device=device).executor(source.folder)
    [spec] = given
    assert spec.graph_rows == rows
