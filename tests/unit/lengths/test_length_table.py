"""Tables of lengths as files, and their parts."""

import json
from dataclasses import replace

import pytest

from tdpipe.core.errors import ConfigError
from tdpipe.lengths.length_table import (
    PARTS,
    LengthRecord,
    LengthTable,
    read_length_table,
    write_length_table,
)


def record(index, custom_id=None, **changes):
    name = custom_id or f"id-{index}"
    return replace(LengthRecord(name, (1, index, 7), 3 + index, "stop", 512), **changes)


def table(records):
    return LengthTable("a/b", "0" * 32, 0.0, tuple(records))


def test_round_trip(tmp_path):
    path = tmp_path / "table.jsonl"
    made = table([record(0), record(1, "größer", token_ids=()), record(2, finish_reason="length")])
    write_length_table(path, made)
    assert read_length_table(path) == made
    assert read_length_table(path).fingerprint() == made.fingerprint()
    assert table(made.records[:2]).fingerprint() != made.fingerprint()
    assert replace(made, temperature=0.5).fingerprint() != made.fingerprint()
    write_length_table(path, replace(made, temperature=None, records=()))
    assert read_length_table(path) == replace(made, temperature=None, records=())


def test_parts_by_name():
    made = table([record(0, "train/x"), record(1, "test/x"), record(2, "validation/y"), record(3)])
    assert [one.custom_id for part in PARTS for one in made.part(part)] == [
        "train/x", "validation/y", "test/x",
    ]  # fmt: skip


def test_parts_by_hash():
    made = table([record(i) for i in range(2000)] + [record(i, f"again-{i}") for i in range(2000)])
    parts = {name: {one.token_ids for one in made.part(name)} for name in PARTS}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 2000
    shares = [len(parts[name]) / 2000 for name in PARTS]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.05)


GOOD = '{"custom_id": "a", "token_ids": [1], "output_tokens": 2, "finish_reason": "stop", '


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("{", "line 3"),
        ("[]", "line 3"),
        (GOOD + '"max_tokens": 1}', "line 3"),
        (GOOD + '"max_tokens": true}', "line 3"),
        (GOOD + '"max_tokens": 9, "more": 1}', None),
        (GOOD.replace("[1]", "[-1]") + '"max_tokens": 9}', "line 3"),
        (GOOD.replace("[1]", '["1"]') + '"max_tokens": 9}', "line 3"),
        (GOOD.replace('"a"', "1") + '"max_tokens": 9}', "line 3"),
    ],
)
def test_damaged_lines(tmp_path, line, word):
    path = tmp_path / "table.jsonl"
    write_length_table(path, table([record(0)]))
    path.write_text(path.read_text() + line + "\n")
    if word is None:
        assert len(read_length_table(path).records) == 2
        return
    with pytest.raises(ConfigError, match=word):
        read_length_table(path)


@pytest.mark.parametrize("header", ["", "{}", "[1]", '{"tdpipe_lengths": 1}', "custom_id,tokens"])
def test_foreign_files(tmp_path, header):
    path = tmp_path / "table.jsonl"
    path.write_text(header)
    with pytest.raises(ConfigError, match="not a table"):
        read_length_table(path)


def test_newer_format_and_unreadable_files(tmp_path):
    path = tmp_path / "table.jsonl"
    write_length_table(path, table([]))
    header = json.loads(path.read_text())
    path.write_text(json.dumps({**header, "tdpipe_lengths": 9}))
    with pytest.raises(ConfigError, match="its format is 9"):
        read_length_table(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not text"):
        read_length_table(path)
    for bad in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_length_table(bad)
    with pytest.raises(ConfigError, match="cannot be written"):
        write_length_table(tmp_path, table([]))
