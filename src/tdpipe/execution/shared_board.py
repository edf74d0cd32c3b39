"""Memory that the ranks of a stage on one machine share: each shows the others its numbers.

Through it a sum over ranks takes a fraction of a millisecond, over gloo's sockets several. Plain
loads and stores suffice where processors keep their order, as x86 does: `is_possible` says so. The
environment variable TDPIPE_RANK_SOCKETS turns it off, as if the ranks were on several machines.
"""

import mmap
import os
import platform
import time
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# Numbers that a rank shows at a time; more go in several turns.
CAPACITY = 1 << 20
# A rank's turn has a cache line of its own.
LINE_BYTES = 64
# Looks at another rank's turn before the core is offered to others, and before it is left to them.
SPINS, YIELDS = 2000, 20_000
# Naps between looks grow, so that a long wait is late by a fiftieth of it at most, and one that
# has no end looks idle: by that the engine tells the ranks that wait from one that computes.
FIRST_NAP_S, LONGEST_NAP_S, NAP_GROWTH = 0.001, 0.02, 1.02


def is_possible(device: torch.device) -> bool:
    """Whether processes may share memory this way."""
    is_wanted = not os.environ.get("TDPIPE_RANK_SOCKETS")
    return is_wanted and device.type == "cpu" and platform.machine() in ("x86_64", "AMD64")


class SharedBoard:
    """One rank's view of the board; all ranks make the same calls in the same order.

    Each has two places for its numbers and uses them in turn: who writes to one has seen all others
    arrive at the turn between, so they have read what was there.

    Args:
        path: of the file behind the memory; it may be removed once all ranks have opened it.
    """

    def __init__(self, path: Path, rank: int, size: int) -> None:
        self._rank, self._others = rank, [other for other in range(size) if other != rank]
        self._turn = 0
        turns_bytes = size * LINE_BYTES
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(file, turns_bytes + 2 * size * CAPACITY * 4)  # zeros, whoever comes first
            memory = mmap.mmap(file, 0)
        finally:
            os.close(file)
        self._turns = np.frombuffer(memory, np.int64, size * LINE_BYTES // 8)[:: LINE_BYTES // 8]
        numbers = torch.frombuffer(memory, dtype=torch.float32, offset=turns_bytes)
        self._places = numbers.view(2, size, CAPACITY)

    def show(self, numbers: Tensor) -> Tensor:
        """What all ranks show, [ranks, numbers], until the call after the next one.

        Args:
            numbers: [at most CAPACITY], float32, as many on each rank.
        """
        self._turn += 1
        place = self._places[self._turn % 2, :, : len(numbers)]
        place[self._rank].copy_(numbers)
        self._turns[self._rank] = self._turn
        for other in self._others:
            self._wait_for(other)
        return place

    def _wait_for(self, other: int) -> None:
        """Until it has shown its numbers. A rank that has died is the engine's to notice."""
        turns, turn, nap_s = self._turns, self._turn, FIRST_NAP_S
        for look in count():
            if turns[other] >= turn:
                return
            if look > SPINS + YIELDS:
                time.sleep(nap_s)
                nap_s = min(LONGEST_NAP_S, nap_s * NAP_GROWTH)
            elif look > SPINS:
                os.sched_yield()
