"""A stage keeps what it sends only as long as the next stage may still have to take it."""

import pytest
import torch

from factories import SMALL_MODEL
from tdpipe.core.tensor_shard import tensor_shards
from tdpipe.execution import transport
from tdpipe.execution.tensor_ranks import TensorRanks
from tdpipe.execution.transport import StageLinks


class Send:
    """A send of gloo: not completed before somebody waits for it."""

    def __init__(self):
        self.waited = False

    def is_completed(self):
        return self.waited

    def wait(self):
        self.waited = True


@pytest.mark.parametrize("num_stages", [2, 4])
def test_old_sends_are_freed_and_young_ones_not_waited_for(monkeypatch, num_stages):
    sends, alive = [], []

    def isend(buffer, dst, tag):
        assert dst == 1
        sends.append(Send())
        return sends[-1]

    monkeypatch.setattr(transport.dist, "isend", isend)
    ranks = TensorRanks(tensor_shards(SMALL_MODEL, 1))
    links = StageLinks(0, num_stages, 8, torch.float32, torch.device("cpu"), ranks)
    for batch_id in range(100):
        links.send(batch_id, torch.zeros(4, 8))
        alive.append(sum(not send.waited for send in sends))
        # The engine has one batch more on its way than there are stages: waiting would block.
        assert not any(send.waited for send in sends[-(num_stages + 1) :])
    assert max(alive) <= num_stages + 3
    links.drain()
    assert all(send.waited for send in sends)
