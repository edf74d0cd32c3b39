"""Progress in lines of the whole file, though the engine has read only a part of them."""

import pytest

from tdpipe.batch.batch_job import BatchOutcome
from tdpipe.batch.line_progress import in_lines
from tdpipe.outputs import Progress


def moment(**changes):
    figures = {"num_finished": 30, "num_requests": 100, "elapsed_s": 60.0, "left_s": 140.0}
    rest = {"num_prompt_tokens": 0, "num_output_tokens": 9, "phase": "", "kv_used_share": 0.0}
    return Progress(**{**figures, **rest, **changes})


def test_lines_of_earlier_runs_and_lines_not_read_yet():
    outcome = BatchOutcome(num_succeeded=225, num_failed=5, num_earlier=200, num_lines=700)
    told = in_lines(moment(), outcome)
    assert (told.num_finished, told.num_requests, told.num_failed) == (230, 700, 5)
    # 100 lines take 200 s, so the 400 that are not read yet take 800 s more.
    assert told.left_s == pytest.approx(140 + 800)
    assert told.num_output_tokens == 9


def test_all_is_read_or_nothing_is_known():
    outcome = BatchOutcome(num_succeeded=30, num_failed=0, num_earlier=0, num_lines=100)
    assert in_lines(moment(), outcome).left_s == 140.0
    assert in_lines(moment(num_requests=130), outcome).left_s == 140.0  # several prompts a line
    assert in_lines(moment(left_s=None, num_requests=0), outcome).left_s is None
