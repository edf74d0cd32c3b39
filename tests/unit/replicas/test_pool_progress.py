"""Several moments as one."""

from tdpipe.outputs import BatchInFlight, Progress
from tdpipe.replicas.pool_progress import PoolProgress


def moment(**figures):
    return Progress(**{
        "num_finished": 1, "num_requests": 2, "num_prompt_tokens": 10, "num_output_tokens": 20,
        "phase": "decode", "kv_used_share": 0.5, "elapsed_s": 3.0, **figures,
    })  # fmt: skip


def test_sums_means_and_the_longest():
    progress = PoolProgress()
    batch = BatchInFlight(0, "decode", 1, 0, 4)
    progress.take(0, moment(
        left_s=4.0, recent_tokens_per_s=5.0, ended=(("stop", 2),), stage_busy_shares=(0.1, 0.2),
        num_running=3, in_flight=(batch,),
    ))  # fmt: skip
    progress.take(1, moment(
        left_s=9.0, recent_tokens_per_s=6.0, ended=(("stop", 1), ("length", 1)), num_running=4,
        stage_busy_shares=(0.3, 0.4), kv_used_share=0.7, in_flight=(batch,), phase="",
    ))  # fmt: skip
    both = progress.moment({0, 1}, 7, 1, 30, 12.0)
    assert (both.num_finished, both.num_failed, both.num_requests, both.elapsed_s) == (7, 1, 30, 12)
    assert (both.num_output_tokens, both.recent_tokens_per_s, both.left_s) == (40, 11.0, 9.0)
    assert dict(both.ended) == {"stop": 3, "length": 1} and both.phase == "decode"
    assert both.stage_busy_shares == (0.1, 0.2, 0.3, 0.4) and both.kv_used_share == 0.6
    assert [one.stage for one in both.in_flight] == [1, 3]
    left = progress.moment({1}, 7, 1, 30, 12.0)  # the other is lost: what it did stays counted
    assert (left.num_output_tokens, left.num_running, left.left_s) == (40, 4, 9.0)


def test_before_anything_is_heard():
    empty = PoolProgress().moment({0, 1}, 0, 0, 0, 0.0)
    assert empty.phase == "" and empty.left_s is None and empty.kv_used_share == 0.0
