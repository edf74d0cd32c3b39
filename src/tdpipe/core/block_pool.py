"""Accounting of KV cache blocks, the same on every stage: which are free, who holds which.

Knows block ids only; the tensors live in execution. Lowest ids are handed out first, so that a
run is reproducible. A block may have several holders (core/prefix_cache), and one that is marked as
cached keeps its content when the last of them leaves: it is idle then, and counts as free, because
it is given away when nothing else is left.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush


def blocks_for(num_tokens: int, block_size: int) -> int:
    """Blocks that num_tokens tokens occupy."""
    return -(-num_tokens // block_size)


class BlockPool:
    """A pool of num_blocks equal blocks.

    Attributes:
        peak_used: most blocks held at any time, each counted once.
        on_evict: told the id of every idle block that is given away.
    """

    def __init__(self, num_blocks: int) -> None:
        assert num_blocks > 0, num_blocks
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks))
        heapify(self._free)
        self._holders: dict[int, set[int]] = {}  # block id -> request ids
        self._cached: set[int] = set()
        self._idle: OrderedDict[int, None] = OrderedDict()  # longest idle first
        self.peak_used = 0
        self.on_evict: Callable[[int], None] | None = None

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free) + len(self._idle)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_free

    def num_holders(self, block_id: int) -> int:
        """Requests that hold a block."""
        return len(self._holders.get(block_id, ()))

    def hold(self, request_id: int, count: int) -> tuple[int, ...]:
        """Take count blocks for a request; the caller has checked num_free."""
        assert count <= self.num_free, (count, self.num_free)
        while count > len(self._free):
            self._evict()
        block_ids = tuple([heappop(self._free) for _ in range(count)])
        for block_id in block_ids:
            self._holders[block_id] = {request_id}
        self.peak_used = max(self.peak_used, self.num_used)
        return block_ids

    def join(self, request_id: int, block_ids: Sequence[int]) -> None:
        """Hold cached blocks together with those who hold them already."""
        for block_id in block_ids:
            assert block_id in self._cached, block_id
            self._idle.pop(block_id, None)
            self._holders.setdefault(block_id, set()).add(request_id)
        self.peak_used = max(self.peak_used, self.num_used)

    def give_back(self, request_id: int, block_ids: Sequence[int]) -> None:
        """Return a request's blocks, the last ones first: they are the first to be given away."""
        for block_id in reversed(block_ids):
            holders = self._holders.get(block_id, set())
            assert request_id in holders, (block_id, holders, request_id)
            holders.remove(request_id)
            if holders:
                continue
            del self._holders[block_id]
            if block_id in self._cached:
                self._idle[block_id] = None
            else:
                heappush(self._free, block_id)

    def cache(self, block_id: int) -> None:
        """Keep the block's content when nobody holds it, as long as there is room."""
        assert block_id in self._holders, block_id
        self._cached.add(block_id)

    def uncache(self, block_id: int) -> None:
        """Nobody will want the block's content again."""
        self._cached.remove(block_id)
        if block_id in self._idle:
            del self._idle[block_id]
            heappush(self._free, block_id)

    def check(self, tables: dict[int, list[int]]) -> None:
        """Assert that blocks are free, idle, or held by exactly those whose tables list them."""
        assert len(self._free) + len(self._idle) + len(self._holders) == self.num_blocks
        assert not set(self._free) & (self._holders.keys() | self._idle.keys())
        assert not self._holders.keys() & self._idle.keys()
        assert self._cached <= self._holders.keys() | self._idle.keys()
        assert self._cached >= self._idle.keys()
        listed: dict[int, set[int]] = {}
        for owner, table in tables.items():
            assert len(set(table)) == len(table), "block twice in a table"
            for block_id in table:
                listed.setdefault(block_id, set()).add(owner)
        assert listed == self._holders, "block tables and pool disagree"
        shared = {block_id for block_id, owners in listed.items() if len(owners) > 1}
        assert shared <= self._cached, "block in two tables"

    def _evict(self) -> None:
        block_id, _ = self._idle.popitem(last=False)
        self._cached.remove(block_id)
        heappush(self._free, block_id)
        if self.on_evict is not None:
            self.on_evict(block_id)
