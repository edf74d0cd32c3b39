"""Hidden states from stage to stage: torch.distributed point-to-point, posted asynchronously.

Where ranks share a stage, the first of each sends and receives, and hands what it received to the
others of its stage. A broken link raises ConnectionError: the fault is then another process's.

A stage posts the receives of batches whose metadata it has before it needs them. It keeps what it
sends alive while the next stage may not have taken it, and waits for no send younger than that.
gloo on CPU, nccl on CUDA; where stages share a card, gloo between copies in host memory
(host_staging.py).
"""

from collections import deque
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from tdpipe.execution.host_staging import HostStaging
from tdpipe.execution.tensor_ranks import TensorRanks, link_to
from tdpipe.execution.wire import StageSpec

# A tag per batch in turn, so that receives posted ahead match their sends.
NUM_TAGS = 1 << 15


class StageLinks:
    """The links of one stage to its neighbours.

    Args:
        hidden_size, dtype, device: shape and place of the hidden states [tokens, hidden_size].
        ranks: those that share the stage.
        staging: by way of which messages go through host memory; None sends from the device.
    """

    def __init__(
        self,
        stage: int,
        num_stages: int,
        hidden_size: int,
        dtype: torch.dtype,
        device: torch.device,
        ranks: TensorRanks,
        staging: HostStaging | None = None,
    ) -> None:
        self._ranks = ranks
        self._staging = staging
        self._before, self._next = (stage - 1) * ranks.size, (stage + 1) * ranks.size
        self.is_first = stage == 0
        self.is_last = stage == num_stages - 1
        self._most_on_the_way = num_stages + 2
        self._hidden_size = hidden_size
        self._dtype = dtype
        self._device = device
        # Of its own: nccl begins when the stream that asked for a message has done all before it.
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda" and staging is None:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._receiving: dict[int, tuple[Tensor, dist.Work | None]] = {}
        self._sending: deque[tuple[Tensor, dist.Work]] = deque()

    def post_receive(self, batch_id: int, num_tokens: int) -> None:
        """Begin to receive a batch's hidden states; a second call for it does nothing."""
        if self.is_first or batch_id in self._receiving:
            return
        work = None
        with torch.cuda.stream(self._stream):  # None changes nothing
            buffer = self._buffer(num_tokens)
            if self._ranks.is_first:
                with link_to("the stage before"):
                    work = dist.irecv(buffer, src=self._before, tag=batch_id % NUM_TAGS)
        self._receiving[batch_id] = (buffer, work)

    def receive(self, batch_id: int) -> Tensor:
        """Wait for the hidden states of a batch whose receive was posted. [tokens, hidden]"""
        buffer, work = self._receiving.pop(batch_id)
        if work is not None:
            with link_to("the stage before"):
                work.wait()
        if self._staging is not None:
            buffer = self._staging.to_device(buffer)
        if self._stream is not None:
            buffer.record_stream(torch.cuda.current_stream(self._device))
        return self._ranks.from_first(buffer)

    def send(self, batch_id: int, hidden: Tensor) -> None:
        """Begin to send a batch's hidden states to the next stage; the first rank does."""
        if not self._ranks.is_first:
            return
        # gloo marks a send as completed only when it is waited for. One that is so many batches old
        # was taken long ago: the engine has no more than these on their way.
        while len(self._sending) > self._most_on_the_way:
            with link_to("the next stage"):
                self._sending.popleft()[1].wait()
        buffer = hidden.contiguous() if self._staging is None else self._staging.to_host(hidden)
        with link_to("the next stage"):
            work = dist.isend(buffer, dst=self._next, tag=batch_id % NUM_TAGS)
        assert work is not None
        self._sending.append((buffer, work))

    def drain(self) -> None:
        """Wait until everything sent has been taken."""
        while self._sending:
            with link_to("the next stage"):
                self._sending.popleft()[1].wait()

    def _buffer(self, num_tokens: int) -> Tensor:
        """Where a message arrives, [tokens, hidden]."""
        if self._staging is not None:
            return self._staging.buffer(num_tokens, self._hidden_size, self._dtype)
        shape = (num_tokens, self._hidden_size)
        return torch.empty(shape, dtype=self._dtype, device=self._device)


def join_group(spec: StageSpec, device: torch.device, ranks: TensorRanks) -> None:
    """Meet the processes of all stages; blocks until all are there.

    The messages along the links make both sides connect now instead of at the first batch.
    """
    is_direct = device.type == "cuda" and not spec.host_staging
    backend = "nccl" if is_direct else "gloo"
    with link_to("the other stages"):
        dist.init_process_group(
            backend,
            init_method=spec.rendezvous,
            rank=spec.rank,
            world_size=spec.num_ranks,
        )
        ranks.meet(spec.stage, spec.num_stages, device, Path(spec.folder))
        greeting = torch.zeros(1, device=device if is_direct else "cpu")
        if ranks.is_first and spec.stage > 0:
            dist.recv(greeting, src=(spec.stage - 1) * ranks.size)
        if ranks.is_first and spec.stage < spec.num_stages - 1:
            dist.send(greeting, dst=(spec.stage + 1) * ranks.size)
