"""report.html in a real browser: it complains of nothing, loads nothing, and fits 1280 pixels."""

import re
import struct

import pytest

from handmade_runs import make_record
from headless_browser import Browser, find_browser
from tdpipe.reporting.report_page import report_page

PROGRAM = find_browser()
WIDTH = 1280
FAULTY = """<!DOCTYPE html><title>x</title><img src="http://127.0.0.1:9/x.png">
<script>console.error("said"); throw new Error("thrown")</script><p style="width:2000px">wide</p>"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if PROGRAM is None:
        pytest.skip("there is no Chromium on this machine")
    with Browser(PROGRAM, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("num_batches", [40, 4000])
def test_report(browser, tmp_path, num_batches):
    path = tmp_path / "report.html"
    path.write_text(report_page(make_record(num_batches, num_stages=4)), encoding="utf-8")
    visit = browser.visit(path.as_uri(), WIDTH)
    assert visit.complaints == []
    # The page's empty icon is in the page itself.
    assert [one for one in visit.requests if not one.startswith("data:")] == []
    assert visit.size[0] == WIDTH, "the page is wider than the window"
    (tmp_path / "report.png").write_bytes(visit.screenshot)
    assert visit.screenshot.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", visit.screenshot[16:24])
    assert width == WIDTH and height > 2000


def test_what_a_faulty_page_does_is_noticed(browser, tmp_path):
    path = tmp_path / "faulty.html"
    path.write_text(FAULTY)
    visit = browser.visit(path.as_uri(), WIDTH)
    told = " ".join(visit.complaints)
    assert all(re.search(word, told) for word in ("said", "Uncaught", "ERR_"))
    assert visit.requests == ["http://127.0.0.1:9/x.png"]
    assert visit.size[0] > WIDTH
