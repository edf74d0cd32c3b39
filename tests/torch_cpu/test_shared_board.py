"""What ranks show each other through shared memory, in processes of their own."""

import multiprocessing
import os
import time

import psutil
import pytest
import torch

from tdpipe.execution.shared_board import CAPACITY, SharedBoard, is_possible

pytestmark = pytest.mark.skipif(
    not is_possible(torch.device("cpu")), reason="processors that keep their order"
)


def numbers(rank, turn):
    """As many on each rank, and others in each turn."""
    draw = torch.Generator().manual_seed(1000 * turn + rank)
    size = (1, 7, 5000, CAPACITY)[turn % 4] if turn < 8 else 1 + turn % 50
    return torch.rand(size, generator=draw)


def take_part(path, rank, size, turns, opened):
    torch.set_num_threads(1)
    board = SharedBoard(path, rank, size)
    opened.wait()
    for turn in range(turns):
        shown = board.show(numbers(rank, turn))
        if rank == turn % size:  # the others run ahead as far as they may
            assert all(shown[other].equal(numbers(other, turn)) for other in range(size)), turn


@pytest.mark.parametrize("size", [2, 3])
def test_each_sees_what_all_show(tmp_path, size):
    """More ranks than cores as well: who waits lets the others run."""
    context = multiprocessing.get_context("fork")
    opened = context.Barrier(size + 1)
    path = tmp_path / "board"
    ranks = [
        context.Process(target=take_part, args=(path, rank, size, 200, opened))
        for rank in range(size)
    ]
    for rank in ranks:
        rank.start()
    opened.wait()
    os.unlink(path)  # nobody needs it any more
    for rank in ranks:
        rank.join(120)
    assert [rank.exitcode for rank in ranks] == [0] * size


def wait_for_ever(path, waits):
    board = SharedBoard(path, 0, 2)
    waits.set()
    board.show(numbers(0, 0))


def test_who_waits_long_looks_idle(tmp_path):
    """By that the engine tells a rank that hangs from one that computes while the others wait."""
    context = multiprocessing.get_context("fork")
    waits = context.Event()
    rank = context.Process(target=wait_for_ever, args=(tmp_path / "board", waits))
    rank.start()
    waits.wait()
    time.sleep(1.5)
    process = psutil.Process(rank.pid)
    before = process.cpu_times()
    time.sleep(2.0)
    after = process.cpu_times()
    rank.terminate()
    rank.join(120)
    assert after.user + after.system - before.user - before.system <= 0.02 * 2.0
