"""Accounting of KV cache blocks, the same on every stage: which are free, who holds which.

Knows block ids only; the tensors live in execution. Blocks of consecutive ids lie one after the
other in memory, which cores read faster than scattered ones. So a request goes on where its last
block ends, and begins where room for more is left: in a stretch of blocks that are all free. Among
equals the lowest id is taken, so that a run is reproducible.

A block may have several holders (core/prefix_cache), and one that is marked as cached keeps its
content when the last of them leaves: it is idle then, and counts as free, because it is given away
when nothing else is left.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heappop, heappush

# Blocks of a stretch. Longer ones are hardly read faster, and sooner none is free as a whole.
STRETCH = 16


def blocks_for(num_tokens: int, block_size: int) -> int:
    """Blocks that num_tokens tokens occupy."""
    return -(-num_tokens // block_size)


class _Lowest:
    """Numbers that come and go, and the lowest of those present."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._present = set(numbers)
        # Numbers that have gone stay listed until they are the lowest, and are listed once.
        self._heap = sorted(self._present)
        self._listed = set(self._present)

    def __len__(self) -> int:
        return len(self._present)

    def __contains__(self, number: int) -> bool:
        return number in self._present

    def __iter__(self) -> Iterator[int]:
        return iter(self._present)

    def add(self, number: int) -> None:
        self._present.add(number)
        if number not in self._listed:
            self._listed.add(number)
            heappush(self._heap, number)

    def discard(self, number: int) -> None:
        self._present.discard(number)

    def lowest(self) -> int:
        """Some number must be present."""
        while self._heap[0] not in self._present:
            self._listed.remove(heappop(self._heap))
        return self._heap[0]


class BlockPool:
    """A pool of num_blocks equal blocks.

    Attributes:
        peak_used: most blocks held at any time, each counted once.
        on_evict: told the id of every idle block that is given away.
    """

    def __init__(self, num_blocks: int) -> None:
        assert num_blocks > 0, num_blocks
        self.num_blocks = num_blocks
        self._free = _Lowest(range(num_blocks))
        self._free_in = [min(STRETCH, num_blocks - at) for at in range(0, num_blocks, STRETCH)]
        self._sizes = tuple(self._free_in)  # of the stretches; the last may be shorter
        self._all_free = _Lowest(range(len(self._sizes)))  # stretches
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

    def hold(self, request_id: int, count: int, held: Sequence[int] = ()) -> tuple[int, ...]:
        """Take count blocks for a request that holds others; the caller has checked num_free."""
        assert count <= self.num_free, (count, self.num_free)
        while count > len(self._free):
            self._evict()
        block_ids, last = [], held[-1] if held else None
        for _ in range(count):
            last = self._take(last)
            self._holders[last] = {request_id}
            block_ids.append(last)
        self.peak_used = max(self.peak_used, self.num_used)
        return tuple(block_ids)

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
                self._put(block_id)

    def cache(self, block_id: int) -> None:
        """Keep the block's content when nobody holds it, as long as there is room."""
        assert block_id in self._holders, block_id
        self._cached.add(block_id)

    def uncache(self, block_id: int) -> None:
        """Nobody will want the block's content again."""
        self._cached.remove(block_id)
        if block_id in self._idle:
            del self._idle[block_id]
            self._put(block_id)

    def check(self, tables: dict[int, list[int]]) -> None:
        """Assert that blocks are free, idle, or held by exactly those whose tables list them."""
        assert len(self._free) + len(self._idle) + len(self._holders) == self.num_blocks
        for stretch, size in enumerate(self._sizes):
            free = sum(
                at in self._free for at in range(stretch * STRETCH, stretch * STRETCH + size)
            )
            assert self._free_in[stretch] == free, stretch
            assert (stretch in self._all_free) == (free == size), stretch
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

    def _take(self, last: int | None) -> int:
        """The block behind the last one, else the first of a free stretch, else any."""
        if last is not None and last + 1 in self._free:
            block_id = last + 1
        elif self._all_free:
            block_id = self._all_free.lowest() * STRETCH
        else:
            block_id = self._free.lowest()
        self._free.discard(block_id)
        self._free_in[block_id // STRETCH] -= 1
        self._all_free.discard(block_id // STRETCH)
        return block_id

    def _put(self, block_id: int) -> None:
        stretch = block_id // STRETCH
        self._free.add(block_id)
        self._free_in[stretch] += 1
        if self._free_in[stretch] == self._sizes[stretch]:
            self._all_free.add(stretch)

    def _evict(self) -> None:
        block_id, _ = self._idle.popitem(last=False)
        self._cached.remove(block_id)
        self._put(block_id)
        if self.on_evict is not None:
            self.on_evict(block_id)
