"""The output survives what may happen to it, and belongs to one run."""

import io
import json

import pytest

from tdpipe.batch.batch_input import BatchInput
from tdpipe.batch.journal import open_journal, run_note
from tdpipe.batch.ordered_output import order_output
from tdpipe.core.errors import ConfigError

SETTINGS = {"model": "m", "seed": 0}
LINES = b"".join(b'{"custom_id": "%d"}\n' % number for number in range(1, 6))


def index_of(lines=LINES):
    return BatchInput(io.BytesIO(lines)).index


def answer(custom_id):
    return {"custom_id": custom_id, "response": {"text": "é" * 3}, "error": None}


def error(line):
    return {"custom_id": "2", "response": None, "error": {"message": "no", "line": line}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "out.jsonl"


def write(path, *records, index=None, settings=SETTINGS, overwrite=False):
    with open_journal(str(path), index or index_of(), settings, overwrite) as journal:
        finished = journal.finished
        for record in records:
            journal.append(record)
    return finished


def test_it_goes_on_where_it_was_left(path):
    assert len(write(path, answer("3"), error(5))) == 0
    finished = write(path, answer("1"))
    assert [finished.has(number) for number in range(1, 6)] == [False, False, True, False, True]
    assert (finished.num_succeeded, finished.num_failed) == (1, 1)
    assert [json.loads(line)["custom_id"] for line in path.open()] == ["3", "2", "1"]


@pytest.mark.parametrize("kept", range(1, 30))
def test_a_torn_last_line_is_dropped(path, kept):
    write(path, answer("3"), answer("4"))
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    path.write_bytes(whole[: first + kept])
    assert len(write(path, answer("1"))) == 1
    assert [json.loads(line)["custom_id"] for line in path.open()] == ["3", "1"]


@pytest.mark.parametrize(
    ("index", "settings", "message"),
    [
        (index_of(LINES + b"{}\n"), SETTINGS, "another input"),
        (index_of(), {**SETTINGS, "seed": 1}, "seed was 0 and is now 1"),
        (index_of(), {"model": "m"}, "seed was 0 and is now None"),
    ],
)
def test_another_run_is_refused_and_nothing_is_lost(path, index, settings, message):
    write(path, answer("3"))
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=message):
        write(path, index=index, settings=settings)
    assert path.read_bytes() == before
    assert len(write(path)) == 1
    assert len(write(path, index=index, settings=settings, overwrite=True)) == 0
    assert path.read_bytes() == b""


def test_an_output_of_unknown_origin_is_refused(path):
    write(path, answer("3"))
    run_note(path).write_text("{torn")
    with pytest.raises(ConfigError, match=r"out\.jsonl\.run\.json.* is missing or damaged"):
        write(path)
    run_note(path).unlink()
    with pytest.raises(ConfigError, match="missing or damaged"):
        write(path)


@pytest.mark.parametrize(
    "line", [b"{damaged}\n", b'{"custom_id": "9", "error": null}\n', b'{"error": {"line": 77}}\n']
)
def test_a_damaged_line_is_named(path, line):
    write(path, answer("3"))
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(ConfigError, match="line 2 is damaged or not of this input"):
        write(path)


def test_two_runs_cannot_write_one_output(path):
    with (
        open_journal(str(path), index_of(), SETTINGS, False),
        pytest.raises(ConfigError, match="another run writes it"),
    ):
        write(path)


def test_a_full_disk_is_one_clear_error():
    with (
        pytest.raises(ConfigError, match=r"output='/dev/full': cannot be written \(No space"),
        open_journal("/dev/full", index_of(), SETTINGS, False) as journal,
    ):
        journal.append(answer("3"))


def test_order_of_the_input(path):
    records = [answer("5"), error(2), answer("1"), answer("4"), answer("3")]
    write(path, *records)
    order_output(path, index_of())
    ordered = [json.loads(line) for line in path.open()]
    assert [record["custom_id"] for record in ordered] == ["1", "2", "3", "4", "5"]
    assert sorted(map(str, ordered)) == sorted(map(str, records))
    assert len(write(path)) == 5
    assert [file.name for file in sorted(path.parent.iterdir())] == [path.name, run_note(path).name]


def test_ids_are_found_by_their_first_line():
    lines = [b'\xef\xbb\xbf{"custom_id": "x"}\n', b"\n", b"{broken\n", b'{"custom_id": 5}\n']
    index = index_of(b"".join([*lines, b'{"custom_id": "y"}\n', b'{"custom_id": "x"}']))
    assert (index.num_lines, index.last_line) == (5, 6)
    assert [index.first_use(one) for one in ("x", "y", "5", "")] == [1, 5, 0, 0]
