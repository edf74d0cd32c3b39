"""Hidden states by way of host memory: what is sent is a copy, and what arrives is one too."""

import torch

from factories import SMALL_MODEL
from tdpipe.core.tensor_shard import tensor_shards
from tdpipe.execution import transport
from tdpipe.execution.host_staging import HostStaging
from tdpipe.execution.tensor_ranks import TensorRanks
from tdpipe.execution.transport import StageLinks

CPU = torch.device("cpu")


def staged_links(stage):
    ranks = TensorRanks(tensor_shards(SMALL_MODEL, 1))
    return StageLinks(stage, 2, 8, torch.bfloat16, CPU, ranks, HostStaging(CPU))


class Transfer:
    """A send or receive of which somebody else sees the buffer."""

    def __init__(self, buffer):
        self.buffer = buffer

    def wait(self):
        return True


def test_what_is_sent_and_received_is_a_copy(monkeypatch):
    posted = []

    def post(buffer, tag, **peer):
        posted.append(Transfer(buffer))
        return posted[-1]

    monkeypatch.setattr(transport.dist, "isend", post)
    monkeypatch.setattr(transport.dist, "irecv", post)
    hidden = torch.randn(5, 8).to(torch.bfloat16)
    told = hidden.clone()
    staged_links(0).send(0, hidden)
    hidden.zero_()  # the next stage may take it later
    [sent] = posted
    assert torch.equal(sent.buffer, told) and sent.buffer.dtype is torch.bfloat16

    behind = staged_links(1)
    behind.post_receive(0, 5)
    arriving = posted[1].buffer
    assert arriving.shape == (5, 8) and arriving.dtype is torch.bfloat16
    arriving.copy_(told)
    received = behind.receive(0)
    assert torch.equal(received, told)
    # The layers change it in place, and the host's memory may be another message's by then.
    received.zero_()
    assert torch.equal(arriving, told)


def test_columns_of_another_tensor_are_sent_whole():
    wide = torch.arange(24.0).view(4, 6)
    host = HostStaging(CPU).to_host(wide[:, 1:3])
    assert host.is_contiguous() and torch.equal(host, wide[:, 1:3])
