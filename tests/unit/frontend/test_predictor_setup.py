"""Which trained predictor a run takes, and what happens with one that cannot be used."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from synthetic_lengths import IDENTITY, depths, table
from tdpipe.config.engine_config import EngineConfig
from tdpipe.core.errors import ConfigError
from tdpipe.frontend import predictor_setup
from tdpipe.frontend.predictor_setup import resolve_predictor, trained_file
from tdpipe.lengths.predictor_file import save_predictor
from tdpipe.lengths.training_run import TrainingTools, train_predictor

TOOLS = TrainingTools(decode=str, encoder=None, states=depths)


@pytest.fixture(scope="module")
def trained():
    return {kind: train_predictor(kind, table(120), IDENTITY, TOOLS) for kind in ("text", "hidden")}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TDPIPE_CACHE", str(tmp_path))
    monkeypatch.setattr(predictor_setup, "model_digest", lambda folder: IDENTITY.digest)
    return trained_file(IDENTITY.digest)


def resolve(**settings):
    source = SimpleNamespace(folder=None)
    return resolve_predictor(EngineConfig("m", **settings), source, lambda: None)


def test_auto_takes_what_was_trained_for_the_model(cache, trained):
    assert resolve().learned is None and resolve().kind is None
    save_predictor(cache, trained["text"])
    assert resolve().kind == "text" and resolve().head_file is None
    save_predictor(cache, trained["hidden"])
    assert resolve().kind == "hidden" and resolve().head_file == cache
    for name in ("online", "max-tokens", "constant:9"):
        assert resolve(length_predictor=name).learned is None
        assert resolve(length_predictor=name).limits_tell is (name == "online")


def test_a_named_file_goes_before_the_cache(cache, trained, tmp_path):
    save_predictor(cache, trained["hidden"])
    named = tmp_path / "mine.safetensors"
    save_predictor(named, trained["text"])
    assert resolve(length_predictor=str(named)).kind == "text"


@pytest.mark.parametrize("fault", ["damaged", "of another model"])
def test_a_file_that_cannot_be_used(cache, trained, caplog, fault):
    predictor = trained["text"]
    if fault == "of another model":
        other = replace(IDENTITY, name="another", digest="e" * 32)
        predictor = replace(predictor, note=replace(predictor.note, model=other))
    save_predictor(cache, predictor)
    if fault == "damaged":
        cache.write_bytes(cache.read_bytes()[:100])
    # Found by itself it is passed over with a word, named it is refused in one line.
    assert resolve().learned is None
    assert "learned while the run goes on" in caplog.text and "length_predictor" in caplog.text
    with pytest.raises(ConfigError, match="length_predictor") as refusal:
        resolve(length_predictor=str(cache))
    assert "\n" not in str(refusal.value)
    with pytest.raises(ConfigError, match="no such file"):
        resolve(length_predictor=str(cache.with_name("absent.safetensors")))
