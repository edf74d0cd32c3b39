"""A model is known by its files' contents."""

import pytest

from tdpipe.core.errors import ConfigError
from tdpipe.lengths.model_identity import model_digest


def folder(place, weights=b"x" * 200_000):
    place.mkdir()
    (place / "config.json").write_text("{}")
    (place / "tokenizer.json").write_text("{}")
    (place / "model.safetensors").write_bytes(weights)
    return place


def test_contents_count_and_names_do_not(tmp_path):
    one = model_digest(folder(tmp_path / "one"))
    assert len(one) == 32 and one == model_digest(folder(tmp_path / "two"))
    for weights in (b"x" * 200_001, b"y" + b"x" * 199_999, b"x" * 199_999 + b"y"):
        assert model_digest(folder(tmp_path / str(hash(weights)), weights)) != one
    (tmp_path / "two" / "tokenizer.json").write_text("[]")
    assert model_digest(tmp_path / "two") != one


def test_unreadable(tmp_path):
    place = folder(tmp_path / "one")
    (place / "broken.safetensors").mkdir()
    with pytest.raises(ConfigError, match="model="):
        model_digest(place)
