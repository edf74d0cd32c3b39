"""The live view as text: within the terminal at any width, with all that matters."""

import io

import pytest
from rich.console import Console

from tdpipe.cli.live_view import LiveView
from tdpipe.cli.progress_view import describe
from tdpipe.outputs import BatchInFlight, Progress


def moment(num_stages=2, **changes):
    in_flight = tuple(
        BatchInFlight(100 + i, "mixed", max(0, num_stages - 1 - i), 512, 31)
        for i in range(num_stages + 1)
    )
    figures = {
        "num_finished": 34123,
        "num_requests": 100000,
        "num_prompt_tokens": 7100,
        "num_output_tokens": 70000,
        "phase": "decode",
        "kv_used_share": 0.523,
        "elapsed_s": 3500.0,
        "num_failed": 3,
        "num_restarts": 1,
        "num_preemptions": 12,
        "num_waiting": 65000,
        "num_running": 877,
        "prefilled_tokens": 30000,
        "recomputed_tokens": 5000,
        "recent_tokens_per_s": 1213.4,
        "left_s": 7261.0,
        "in_flight": in_flight,
        "lane_sizes": (30, 33),
        "stage_busy_shares": (0.97,) * num_stages,
    }
    return Progress(**{**figures, **changes})


def shown(progress, width, height):
    """Lines of the view on a terminal of that size."""
    view, file = LiveView(), io.StringIO()
    view.progress = progress
    Console(file=file, width=width, height=height, force_terminal=True, color_system=None).print(
        view
    )
    return file.getvalue().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50)])
@pytest.mark.parametrize("num_stages", [1, 2, 8, 32])
def test_all_figures_within_the_terminal(width, height, num_stages):
    lines = shown(moment(num_stages), width, height)
    assert len(lines) < height and all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    for words in (
        "decode", "34,123/100,000", "34%", "0:58:20", "2:01:01", "1,213.4 now, 20.0 in all",
        "52%", "877 running, 65,000 waiting", "5.0%, 12 preemptions", "10% of 30/33",
        "errors     3", "restarts 1", "512 prompt tokens + 31 decodes", "97%",
    ):  # fmt: skip
        assert words in text, words
    assert ("more stages" in text) == (num_stages == 32 and height == 24)


@pytest.mark.parametrize("width", [8, 20, 30, 40, 59, 60, 109, 110, 400])
def test_no_width_breaks_it(width):
    for num_stages in (1, 40):
        lines = shown(moment(num_stages), width, 10)
        assert lines and all(len(line) <= width for line in lines)
    if width >= 40:
        assert "34,123/100,000" in "\n".join(lines)


def test_before_the_first_moment_and_the_first_batch():
    assert shown(None, 80, 24) == ["starting stages ..."]
    text = "\n".join(shown(Progress(0, 0, 0, 0, "", 0.0, 0.0), 80, 24))
    assert "starting" in text and "time left -" in text


def test_one_line():
    assert describe(moment()) == (
        "34123/100000 requests, 20.0 output tokens/s, decode phase, KV cache 52% used, "
        "2:01:01 left, 3 errors, 1 restarts"
    )
    plain = moment(num_failed=0, num_restarts=0, left_s=None)
    assert describe(plain).endswith("KV cache 52% used")
