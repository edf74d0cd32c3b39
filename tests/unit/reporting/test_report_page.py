"""report.html: well formed, of bounded size, and made of nothing from outside."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

from handmade_runs import make_record
from tdpipe.reporting.report_page import report_page
from tdpipe.reporting.report_sections import MOST_DECISIONS, duration_text
from tdpipe.reporting.run_record import RunRecord
from tdpipe.reporting.run_summary import RunTotals, summarize
from tdpipe.reporting.svg_axes import number_text, round_steps, round_top
from tdpipe.tracing.forecast_log import ForecastLog

VOID = {"meta", "link"}


class Balance(HTMLParser):
    """Notes elements that are not closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.faults = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)


def check(page):
    """Elements are balanced, drawings are XML, and nothing points outside."""
    parser = Balance()
    parser.feed(page)
    assert parser.faults == [] and parser.open == []
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    for drawing in drawings:
        ElementTree.fromstring(drawing)
        assert "nan" not in drawing and "inf" not in drawing
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<script|src=", page)
    return drawings


def test_everything_is_there():
    page = report_page(make_record())
    assert len(check(page)) == 7  # bound, four panels, stages, forecasts
    assert len(check(report_page(make_record(400)))) == 8  # and a close look
    for words in (
        "tdpipe run, tiny &amp; small, td-pipe",
        "2 stages of 4,4 layers, 40 batches, 3 phase switches",
        "<b>47.6%</b><span>of what the stages allow",
        "30 finished, 1 failed",
        "prefill: reason &lt;0&gt;",
        "decode: reason &lt;3&gt;",
        "% busy",
        "between half and double",
        "at least 20.00 s (compute)",
        "3 preemptions",
    ):
        assert words in page, words


def test_a_long_run_on_many_stages_stays_small():
    page = report_page(make_record(6000, num_stages=12, phase_length=2, pairs=50000))
    check(page)
    assert len(page) < 2_000_000
    assert page.count("reason &lt;") <= MOST_DECISIONS and "2800 more decisions" in page


def test_a_run_that_ended_badly():
    record = make_record(3, pairs=0)
    unfinished = replace(record.summary, bound=None, num_requests=0)
    page = report_page(RunRecord(record.trace, unfinished), "stage 1 failed: <killed>")
    check(page)
    assert "did not end well: stage 1 failed: &lt;killed&gt;" in page
    assert "nothing to compare" in page and "there is no bound" in page
    assert "did not end well" not in report_page(record)


def test_a_run_cut_before_its_first_result():
    trace = replace(make_record(2).trace, spans=[], forecasts=ForecastLog())
    summary = summarize(trace, RunTotals("td-pipe", (4, 4), 0, 0, 0, 0, 0, 0, 0.0))
    check(report_page(RunRecord(trace, summary)))


def test_lengths_known_beforehand():
    record = make_record(pairs=0)
    record.trace.forecasts.add(7, 7)
    assert "every forecast was right" in report_page(record)


def test_round_numbers():
    assert round_steps(10, 5) == [0, 2, 4, 6, 8, 10] and round_steps(0) == []
    assert round_steps(0.93, 4) == [0, 0.5] and round_top(0.93) == 1.0 and round_top(0) == 1.0
    assert [number_text(x) for x in (0.25, 12, 1500, 2.5e6)] == ["0.25", "12", "1,500", "2.5M"]
    assert [duration_text(x) for x in (0.524, 12.34, 260, 11100)] == [
        "0.52 s",
        "12.3 s",
        "4 min 20 s",
        "3 h 05 min",
    ]
