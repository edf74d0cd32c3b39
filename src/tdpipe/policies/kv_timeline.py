"""Blocks that will be in use in the coming decode rounds, rebuilt quickly for many requests.

The same forecast as kv_forecast (paper 3.2), for a scheduler that asks for it all the time and
fills the cache to the brim: the future is cut into even intervals. A request counts with its size
in the middle of each interval that it is expected to outlive, and with part of its largest in that
of its end. Counted with their largest throughout, they would leave several percent of a cache free.
"""

from collections.abc import Callable, Sequence

from tdpipe.core.request import Request
from tdpipe.policies.shared_blocks import SharedBlocks

NUM_INTERVALS = 64
SHORTEST_INTERVAL = 4  # rounds
# Half of the interval of its end is what a request is there for on average; but the fullest moment
# counts, and there may be few requests.
END_SHARE = 0.75


class KVTimeline:
    """Expected blocks in use in each of NUM_INTERVALS intervals from now.

    Blocks that several requests share count once, in all intervals.

    Args:
        block_size: tokens in a block; a request wastes half a block on average.
        remaining: tokens that a request is expected to generate yet, at least 1.
    """

    def __init__(self, block_size: int, remaining: Callable[[Request], int]) -> None:
        self.block_size = block_size
        self.remaining = remaining
        self.interval = SHORTEST_INTERVAL
        self.blocks = [0.0] * NUM_INTERVALS
        self.shared: SharedBlocks | None = None

    def rebuild(
        self,
        requests: Sequence[Request],
        remaining: Sequence[int],
        longest: int,
        shared: SharedBlocks | None = None,
    ) -> None:
        """Forget what was known and count these requests.

        Args:
            remaining: tokens that each is expected to generate yet.
            longest: rounds to look ahead; requests expected to live longer count to there.
            shared: counts the blocks that requests share, from now on; None if none do.
        """
        self.shared = shared
        self.interval = max(SHORTEST_INTERVAL, -(-longest // NUM_INTERVALS))
        counts, tokens, last_tokens = ([0] * NUM_INTERVALS for _ in range(3))
        slack, num_shared = self.block_size // 2, 0
        interval, top = self.interval, NUM_INTERVALS - 1
        for request, to_come in zip(requests, remaining, strict=True):
            index = to_come // interval
            if index > top:
                index = top
            size = len(request.prompt_token_ids) + len(request.output_token_ids) + slack
            if shared is not None:
                num_shared += shared.add(request)
                size -= shared.num_shared(request) * self.block_size
            counts[index] += 1
            tokens[index] += size
            last_tokens[index] += size + to_come
        count = total = 0
        for index in range(NUM_INTERVALS - 1, -1, -1):  # from the end: who lives longer lives here
            grown = total + count * (index + 0.5) * self.interval
            self.blocks[index] = (
                grown + END_SHARE * last_tokens[index]
            ) / self.block_size + num_shared
            count += counts[index]
            total += tokens[index]

    def add(self, request: Request) -> None:
        """Count one more request, about to be prefilled."""
        for index, blocks in enumerate(self._blocks_of(request)):
            self.blocks[index] += blocks
        new = self.shared.add(request) if self.shared is not None else 0
        if new:
            self.blocks = [blocks + new for blocks in self.blocks]

    def peak_with(self, request: Request, prefill_per_round: int) -> float:
        """Blocks in use at the fullest moment of the request's expected life.

        Args:
            prefill_per_round: tokens of its prompt that a round computes, and so stores.
        """
        blocks = self._blocks_of(request)
        if self.shared is not None:
            new = self.shared.num_new(request)
            blocks = [own + new for own in blocks]
        for index in range(len(blocks)):
            stored = prefill_per_round * (index + 1) * self.interval / self.block_size
            if stored >= blocks[index]:
                break
            blocks[index] = stored
        return max(map(sum, zip(self.blocks, blocks, strict=False)))

    def _blocks_of(self, request: Request) -> list[float]:
        size = request.num_tokens + self.block_size // 2
        if self.shared is not None:
            size -= self.shared.num_shared(request) * self.block_size
        remaining = self.remaining(request)
        last = min(remaining // self.interval, NUM_INTERVALS - 1)
        middles = [(index + 0.5) * self.interval for index in range(last)]
        sizes = [*[size + grown for grown in middles], END_SHARE * (size + remaining)]
        return [tokens / self.block_size for tokens in sizes]
