"""Hidden states from stage to stage: torch.distributed point-to-point, posted asynchronously.

A broken link raises ConnectionError: the fault is then another stage's.

A stage posts the receives of batches whose metadata it has before it needs them. It keeps what it
sends alive while the next stage may not have taken it, and waits for no send younger than that.
gloo on CPU, nccl on CUDA.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

# A tag per batch in turn, so that receives posted ahead match their sends.
NUM_TAGS = 1 << 15


class StageLinks:
    """The links of one stage to its neighbours.

    Args:
        hidden_size, dtype, device: shape and place of the hidden states [tokens, hidden_size].
    """

    def __init__(
        self,
        stage: int,
        num_stages: int,
        hidden_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.stage = stage
        self.is_first = stage == 0
        self.is_last = stage == num_stages - 1
        self._most_on_the_way = num_stages + 2
        self._hidden_size = hidden_size
        self._dtype = dtype
        self._device = device
        self._receiving: dict[int, tuple[Tensor, dist.Work]] = {}
        self._sending: deque[tuple[Tensor, dist.Work]] = deque()

    def post_receive(self, batch_id: int, num_tokens: int) -> None:
        """Begin to receive a batch's hidden states; a second call for it does nothing."""
        if self.is_first or batch_id in self._receiving:
            return
        buffer = torch.empty(num_tokens, self._hidden_size, dtype=self._dtype, device=self._device)
        with _link("the stage before"):
            work = dist.irecv(buffer, src=self.stage - 1, tag=batch_id % NUM_TAGS)
        assert work is not None
        self._receiving[batch_id] = (buffer, work)

    def receive(self, batch_id: int) -> Tensor:
        """Wait for the hidden states of a batch whose receive was posted. [tokens, hidden]"""
        buffer, work = self._receiving.pop(batch_id)
        with _link("the stage before"):
            work.wait()
        return buffer

    def send(self, batch_id: int, hidden: Tensor) -> None:
        """Begin to send a batch's hidden states to the next stage."""
        # gloo marks a send as completed only when it is waited for. One that is so many batches old
        # was taken long ago: the engine has no more than these on their way.
        while len(self._sending) > self._most_on_the_way:
            with _link("the next stage"):
                self._sending.popleft()[1].wait()
        buffer = hidden.contiguous()
        with _link("the next stage"):
            work = dist.isend(buffer, dst=self.stage + 1, tag=batch_id % NUM_TAGS)
        assert work is not None
        self._sending.append((buffer, work))

    def drain(self) -> None:
        """Wait until everything sent has been taken."""
        while self._sending:
            with _link("the next stage"):
                self._sending.popleft()[1].wait()


@contextmanager
def _link(other: str) -> Iterator[None]:
    """Name errors of a link as such; the card's own lack of memory is none."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ConnectionError(f"the link to {other} broke: {error}") from error


def join_group(stage: int, num_stages: int, rendezvous: str, device: torch.device) -> None:
    """Meet the other stages; blocks until all are there.

    The two messages around the ring's links make both sides connect now instead of at the first
    batch.
    """
    backend = "nccl" if device.type == "cuda" else "gloo"
    with _link("the other stages"):
        dist.init_process_group(
            backend, init_method=f"file://{rendezvous}", rank=stage, world_size=num_stages
        )
        greeting = torch.zeros(1, device=device)
        if stage > 0:
            dist.recv(greeting, src=stage - 1)
        if stage < num_stages - 1:
            dist.send(greeting, dst=stage + 1)
