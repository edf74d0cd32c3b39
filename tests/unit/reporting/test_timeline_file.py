"""A timeline holds its run: read again it is the same; anything else is one clear error."""

import json

import pytest

from handmade_runs import ORIGIN_S, make_record
from tdpipe.core.errors import ConfigError
from tdpipe.reporting.bubbles import phase_intervals
from tdpipe.reporting.report_page import report_page
from tdpipe.reporting.run_metrics import run_metrics
from tdpipe.reporting.timeline_file import KEY, read_timeline, write_timeline


@pytest.fixture
def written(tmp_path):
    """A run and the file that it was written to."""
    record, path = make_record(), tmp_path / "new" / "t.json"
    write_timeline(record, path)
    return record, path


def test_there_and_back(written):
    record, path = written
    again = read_timeline(path)
    assert again.summary == record.summary
    assert again.trace.settings == record.trace.settings
    assert again.trace.forecasts.pairs() == record.trace.forecasts.pairs()
    assert len(again.trace.batches) == 40 and len(again.trace.spans) == 80
    for one, other in zip(again.trace.batches, record.trace.batches, strict=True):
        assert one.submitted_s == pytest.approx(other.submitted_s - ORIGIN_S, abs=1e-6)
        assert (one.batch_id, one.phase, one.reason) == (other.batch_id, other.phase, other.reason)
    assert [one.phase for one in phase_intervals(again.trace)] == [
        one.phase for one in phase_intervals(record.trace)
    ]
    assert run_metrics(again) == run_metrics(record)
    assert report_page(again) == report_page(record)


def test_perfetto_still_finds_events_and_settings(written):
    timeline = json.loads(written[1].read_text())
    assert timeline["otherData"]["scheduler"] == "td-pipe" and timeline["displayTimeUnit"] == "ms"
    assert {event["ph"] for event in timeline["traceEvents"]} == {"M", "X", "C", "i"}


def spoil(text, change):
    timeline = json.loads(text)
    change(timeline)
    return json.dumps(timeline)


@pytest.mark.parametrize(
    ("change", "fix"),
    [
        (lambda text: text[:-9], "is not JSON"),
        (lambda text: "[]", "no timeline of this version"),
        (lambda text: '{"traceEvents": []}', "no timeline of this version"),
        (lambda text: spoil(text, lambda t: t["otherData"].pop(KEY)), "record one with --timeline"),
        (lambda text: spoil(text, lambda t: t["otherData"][KEY].update(format=9)), "no timeline"),
        (lambda text: spoil(text, lambda t: t["otherData"][KEY].update(num_stages=1)), "no timel"),
        (lambda text: spoil(text, lambda t: t["traceEvents"].append({})), "no timeline"),
        (
            lambda text: spoil(text, lambda t: t["otherData"][KEY]["batches"]["phase"].pop()),
            "no timeline",
        ),
    ],
)
def test_files_that_are_none(written, change, fix):
    path = written[1]
    path.write_text(change(path.read_text()))
    with pytest.raises(ConfigError, match=fix):
        read_timeline(path)


def test_no_file_at_all(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_timeline(tmp_path / "absent.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not JSON"):
        read_timeline(tmp_path / "binary")
