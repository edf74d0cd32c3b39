"""Accounting of KV cache blocks, the same on every stage: which are free, who holds which.

Knows block ids only; the tensors live in execution. Lowest ids are handed out first, so that a
run is reproducible.
"""

from heapq import heapify, heappop, heappush


def blocks_for(num_tokens: int, block_size: int) -> int:
    """Blocks that num_tokens tokens occupy."""
    return -(-num_tokens // block_size)


class BlockPool:
    """A pool of num_blocks equal blocks."""

    def __init__(self, num_blocks: int) -> None:
        assert num_blocks > 0, num_blocks
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks))
        heapify(self._free)
        self._held: dict[int, int] = {}  # block id -> request id
        self.peak_used = 0

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return self.num_blocks - len(self._free)

    def hold(self, request_id: int, count: int) -> tuple[int, ...]:
        """Take count blocks for a request; the caller has checked num_free."""
        assert count <= len(self._free), (count, len(self._free))
        block_ids = tuple(heappop(self._free) for _ in range(count))
        for block_id in block_ids:
            self._held[block_id] = request_id
        self.peak_used = max(self.peak_used, self.num_used)
        return block_ids

    def give_back(self, request_id: int, block_ids: list[int]) -> None:
        """Return a request's blocks."""
        for block_id in block_ids:
            holder = self._held.pop(block_id, None)
            assert holder == request_id, (block_id, holder, request_id)
            heappush(self._free, block_id)

    def check(self, tables: dict[int, list[int]]) -> None:
        """Assert that every block is free or in exactly the one block table that holds it."""
        assert len(self._free) + len(self._held) == self.num_blocks
        assert not set(self._free) & self._held.keys()
        listed = {block: owner for owner, table in tables.items() for block in table}
        assert listed == self._held, "block tables and pool disagree"
        assert sum(len(table) for table in tables.values()) == len(listed), "block in two tables"
