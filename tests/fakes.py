"""A fake executor: a FIFO pipeline of unit-time stages that answers with known tokens."""

from collections import deque
from collections.abc import Callable, Sequence

from tdpipe.core.batch_plan import BatchPlan, BatchResult, Phase, Sample


def next_token(request_id: int, position: int) -> int:
    """The token that the fake model generates: a function of request and position only."""
    return 1000 + (request_id * 7919 + position * 104729) % 30000


class FakeExecutor:
    """Keeps what the engine must never do wrong in check, as a stage would see it.

    Tracks block tables from deltas; asserts that slices continue where the last one ended, that
    blocks are held by one live sequence only, and that a decode's token is the one sampled.
    """

    def __init__(self, num_stages: int, num_blocks: int, block_size: int) -> None:
        self.depth = num_stages + 1
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.phases: list[Phase] = []
        self.log: list[tuple[object, ...]] = []
        self.queue: deque[BatchPlan] = deque()
        self.tables: dict[int, list[int]] = {}
        self.lengths: dict[int, int] = {}
        self.tokens: dict[int, list[int]] = {}
        self.clock_s = 0.0
        self.on_submit: Callable[[BatchPlan], None] | None = None

    def has_room(self) -> bool:
        return len(self.queue) < self.depth

    def now_s(self) -> float:
        return self.clock_s

    def submit(self, plan: BatchPlan) -> None:
        assert self.has_room()
        assert plan.slices
        for request_id in plan.released:
            self.tables.pop(request_id, None)
            self.lengths.pop(request_id, None)
        started = {start.request_id for start in plan.starts}
        for index, piece in enumerate(plan.slices):
            known = piece.request_id in self.tables
            assert known != (piece.request_id in started), "start exactly once per residence"
            table = self.tables.setdefault(piece.request_id, [])
            assert piece.start == self.lengths.get(piece.request_id, 0)
            table.extend(piece.new_block_ids)
            self.lengths[piece.request_id] = piece.context_tokens
            assert piece.context_tokens <= len(table) * self.block_size
            assert all(0 <= block < self.num_blocks for block in piece.new_block_ids)
            seen = self.tokens.setdefault(piece.request_id, [])
            assert len(seen) >= piece.start, "a gap in the tokens"
            overlap = seen[piece.start : piece.context_tokens]
            assert list(piece.token_ids[: len(overlap)]) == overlap, "tokens changed"
            seen[piece.start :] = [*piece.token_ids, *seen[piece.context_tokens :]]
            if index >= plan.num_prefills:
                assert piece.num_tokens == 1 and piece.samples
        held = [block for table in self.tables.values() for block in table]
        assert len(held) == len(set(held)) <= self.num_blocks
        self.phases.append(plan.phase)
        self.log.append((plan.phase, plan.slices, plan.released))
        self.queue.append(plan)
        if self.on_submit is not None:
            self.on_submit(plan)

    def wait(self, until_s: float | None) -> list[BatchResult]:
        if not self.queue:
            assert until_s is not None, "waiting for nothing"
            self.clock_s = max(self.clock_s, until_s)
            return []
        self.clock_s += 1.0
        plan = self.queue.popleft()
        samples = tuple(
            Sample(piece.request_id, self.token(piece.request_id, piece.context_tokens))
            for piece in plan.slices
            if piece.samples
        )
        return [BatchResult(plan.batch_id, samples)]

    def token(self, request_id: int, position: int) -> int:
        return next_token(request_id, position)

    def close(self) -> None:
        self.queue.clear()


def keys_of(tokens: Sequence[int], before: Sequence[int] = ()) -> list[int]:
    """What a fake model stores for tokens that follow `before`: each depends on all before it."""
    keys = list(before)
    for token in tokens:
        keys.append(hash((token, *keys)))
    return keys[len(before) :]


def continuation(prompt: Sequence[int], num_tokens: int) -> list[int]:
    """The tokens that the fake model generates after a prompt."""
    keys, tokens = keys_of(prompt), []
    for _ in range(num_tokens):
        tokens.append(keys[-1] % 30000)
        keys += keys_of(tokens[-1:], keys)
    return tokens


class PagedExecutor(FakeExecutor):
    """A fake model over a paged cache: what it generates depends on all that its block tables name.

    So a block that is wrong, given away too early or not written yet changes the output.
    """

    def __init__(self, num_stages: int, num_blocks: int, block_size: int) -> None:
        super().__init__(num_stages, num_blocks, block_size)
        self.memory: dict[tuple[int, int], int] = {}
        self.num_computed = 0
        self.sampled: dict[int, dict[int, int]] = {}  # batch id -> request id -> token

    def submit(self, plan: BatchPlan) -> None:
        assert self.has_room()
        for request_id in plan.released:
            self.tables.pop(request_id, None)
        started = {start.request_id for start in plan.starts}
        samples = self.sampled[plan.batch_id] = {}
        for piece in plan.slices:
            assert (piece.request_id in self.tables) != (piece.request_id in started)
            table = self.tables.setdefault(piece.request_id, [])
            table += piece.new_block_ids
            slots = [
                (table[at // self.block_size], at % self.block_size)
                for at in range(piece.context_tokens)
            ]
            before = [self.memory[slot] for slot in slots[: piece.start]]
            new = keys_of(piece.token_ids, before)
            self.memory.update(zip(slots[piece.start :], new, strict=True))
            self.num_computed += piece.num_tokens
            if piece.samples:
                samples[piece.request_id] = new[-1] % 30000
        self.log.append((plan.phase, plan.slices, plan.released))
        self.queue.append(plan)
        if self.on_submit is not None:
            self.on_submit(plan)

    def wait(self, until_s: float | None) -> list[BatchResult]:
        return [
            BatchResult(
                result.batch_id,
                tuple(
                    Sample(one.request_id, self.sampled[result.batch_id][one.request_id])
                    for one in result.samples
                ),
            )
            for result in super().wait(until_s)
        ]
