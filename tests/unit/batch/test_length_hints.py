"""Lengths from earlier results, whatever the file holds besides."""

import json

import pytest

from tdpipe.batch.length_hints import read_length_hints
from tdpipe.core.errors import ConfigError


def result(custom_id, tokens, num_choices=1):
    body = {"choices": [{}] * num_choices, "usage": {"completion_tokens": tokens}}
    return json.dumps({"custom_id": custom_id, "response": {"body": body}, "error": None})


def write(path, *lines):
    path.write_bytes(b"\n".join(one if isinstance(one, bytes) else one.encode() for one in lines))
    return str(path)


def test_lines_that_tell_a_length_are_kept(tmp_path):
    path = write(
        tmp_path / "earlier.jsonl",
        result("a", 12),
        result("three choices", 30, 3),
        '{"custom_id": "from a table", "output_tokens": 7}',
        '{"custom_id": "failed", "response": null, "error": {"message": "no"}}',
        result(5, 12),
        result("none", 0),
        result("text", "12"),
        result("no choices", 3, 0),
        "[1, 2]",
        b"\xff\xfe",
        "[" * 100_000,
        '{"custom_id": "torn", "resp',
    )
    assert read_length_hints(path) == {"a": 12, "three choices": 10, "from a table": 7}


@pytest.mark.parametrize("lines", [[], ["{}"], ["hello"], [result("a", True)]])
def test_a_file_without_lengths_is_refused(tmp_path, lines):
    with pytest.raises(ConfigError, match=r"length_hints.*completion_tokens"):
        read_length_hints(write(tmp_path / "nothing.jsonl", *lines))


@pytest.mark.parametrize("name", ["absent.jsonl", "."])
def test_a_path_that_cannot_be_read_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"length_hints.*cannot be read"):
        read_length_hints(str(tmp_path / name))
