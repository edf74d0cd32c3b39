"""The processes that share a stage by tensor parallelism: sums and gathers among them.

Every rank of a stage makes the same calls in the same order. They go through memory that the ranks
share where that can be (float32 on CPU), else through torch.distributed; a broken link there raises
ConnectionError.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from tdpipe.core.tensor_shard import TensorShard
from tdpipe.execution.shared_board import CAPACITY, SharedBoard, is_possible


class TensorRanks:
    """One rank among those of its stage; until `meet` it may be asked for its shard only.

    Args:
        shards: of all ranks of the stage.
        rank: of this process among them.
    """

    def __init__(self, shards: Sequence[TensorShard], rank: int = 0) -> None:
        self.shard = shards[rank]
        self.size = len(shards)
        self.is_first = rank == 0
        self._shards = shards
        self._first = 0
        self._group: dist.ProcessGroup | None = None
        self._board: SharedBoard | None = None
        self._seconds = 0.0

    def meet(self, stage: int, num_stages: int, device: torch.device, folder: Path) -> None:
        """Connect the ranks of the stage, once the processes of all stages have met.

        Args:
            folder: one that all ranks of the stage see.
        """
        if self.size == 1:
            return
        if is_possible(device):
            self._board = SharedBoard(folder / f"stage{stage}", self.shard.rank, self.size)
        self._first = stage * self.size
        # All processes make all groups, in the same order: torch asks for it.
        groups = [
            dist.new_group(list(range(first, first + self.size)))
            for first in range(0, num_stages * self.size, self.size)
        ]
        self._group = groups[stage]
        self.sum(torch.zeros(1, device=device))

    def take_seconds(self) -> float:
        """Time spent in sums and gathers since the last call; on a card that of their launch."""
        taken, self._seconds = self._seconds, 0.0
        return taken

    def sum(self, x: Tensor) -> Tensor:
        """The sum of all ranks' x, which x becomes; bit by bit the same where memory is shared."""
        if self.size == 1:
            return x
        with self._counted("the other ranks of the stage"):
            if self._shares_memory(x):
                for part, (first, second, *rest) in self._shown(x):
                    torch.add(first, second, out=part)
                    for one in rest:
                        part += one
            else:
                dist.all_reduce(x, group=self._group)
        return x

    def from_first(self, x: Tensor) -> Tensor:
        """What the first rank has in x, which x becomes."""
        if self.size == 1:
            return x
        with self._counted("the first rank of the stage"):
            if self._shares_memory(x):
                for part, shown in self._shown(x):
                    if not self.is_first:
                        part.copy_(shown[0])
            else:
                dist.broadcast(x, src=self._first, group=self._group)
        return x

    def gather_vocab(self, logits: Tensor) -> Tensor | None:
        """[rows, vocab] of each rank's own columns, on the first rank; None on the others."""
        if self.size == 1:
            return logits
        with self._counted("the other ranks of the stage"):
            # Every rank gives as many columns as the one that has most.
            most = max(shard.vocab.size for shard in self._shards)
            padded = functional.pad(logits, (0, most - logits.shape[1]))
            if not self._shares_memory(logits):
                found = [torch.empty_like(padded) for _ in self._shards]
                dist.gather(padded, found if self.is_first else None, self._first, self._group)
                return self._whole_rows(found) if self.is_first else None
            assert self._board is not None
            rows = []
            for part in torch.split(padded, max(1, CAPACITY // most)):
                shown = self._board.show(part.reshape(-1))
                if self.is_first:
                    rows.append(self._whole_rows([one.view(part.shape) for one in shown]))
            return torch.cat(rows) if self.is_first else None

    def _whole_rows(self, parts: list[Tensor]) -> Tensor:
        widths = [shard.vocab.size for shard in self._shards]
        return torch.cat([part[:, :n] for part, n in zip(parts, widths, strict=True)], dim=1)

    def _shown(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """x in parts, each with what all ranks have in its place, [ranks, numbers]."""
        assert self._board is not None
        for part in torch.split(x.view(-1), CAPACITY):
            yield part, self._board.show(part)

    def _shares_memory(self, x: Tensor) -> bool:
        return self._board is not None and x.dtype == torch.float32

    @contextmanager
    def _counted(self, other: str) -> Iterator[None]:
        started_s = time.monotonic()
        with link_to(other):
            yield
        self._seconds += time.monotonic() - started_s


@contextmanager
def link_to(other: str) -> Iterator[None]:
    """Name errors of a link as such; the card's own lack of memory is none."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ConnectionError(f"the link to {other} broke: {error}") from error
