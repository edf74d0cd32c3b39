"""What a stage remembers of its sequences: one row of block ids each, extended by deltas."""

import numpy as np
import numpy.typing as npt

from tdpipe.core.batch_plan import BatchPlan

Int32Array = npt.NDArray[np.int32]


class SequenceTable:
    """Block tables of the resident sequences as rows of one growing matrix.

    Args:
        max_blocks: blocks of the longest possible sequence (the number of columns).
    """

    def __init__(self, max_blocks: int, initial_rows: int = 64) -> None:
        self.blocks: Int32Array = np.zeros((initial_rows, max_blocks), np.int32)
        self._row_of: dict[int, int] = {}
        self._num_blocks: dict[int, int] = {}
        self._free_rows = list(range(initial_rows - 1, -1, -1))

    def __len__(self) -> int:
        return len(self._row_of)

    def apply(self, plan: BatchPlan) -> None:
        """Forget the released sequences, then extend those of the plan by their new blocks."""
        for request_id in plan.released:
            row = self._row_of.pop(request_id, None)
            if row is not None:
                del self._num_blocks[request_id]
                self._free_rows.append(row)
        for piece in plan.slices:
            if piece.new_block_ids or piece.request_id not in self._row_of:
                self._extend(piece.request_id, piece.new_block_ids)

    def rows(self, request_ids: list[int]) -> list[int]:
        """Row of each sequence in `blocks`."""
        return [self._row_of[request_id] for request_id in request_ids]

    def row(self, request_id: int) -> Int32Array:
        """Block ids of one sequence, padded with old values beyond its blocks."""
        row: Int32Array = self.blocks[self._row_of[request_id]]
        return row

    def clear(self) -> None:
        """Forget every sequence."""
        self._free_rows.extend(self._row_of.values())
        self._row_of.clear()
        self._num_blocks.clear()

    def _extend(self, request_id: int, block_ids: tuple[int, ...]) -> None:
        row = self._row_of.get(request_id)
        if row is None:
            if not self._free_rows:
                self._grow()
            row = self._row_of[request_id] = self._free_rows.pop()
            self._num_blocks[request_id] = 0
        start = self._num_blocks[request_id]
        self.blocks[row, start : start + len(block_ids)] = block_ids
        self._num_blocks[request_id] = start + len(block_ids)

    def _grow(self) -> None:
        old = len(self.blocks)
        self.blocks = np.concatenate([self.blocks, np.zeros_like(self.blocks)])
        self._free_rows = list(range(2 * old - 1, old - 1, -1))
