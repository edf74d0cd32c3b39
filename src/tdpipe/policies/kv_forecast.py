"""Simulated KV memory: blocks in use at future decode steps, from predicted output lengths.

Paper 3.2, Algorithm 1. A request still alive f steps from now holds
ceil((context_now + f) / block_size) blocks; one predicted to have ended by then holds none.
Differs from the reference code on purpose: the first future point is the very next step, so that
a request predicted to end within 5 steps still counts.

`expected_blocks` is the same for a forecast that is a distribution: each of its quantiles that the
request has not outlived yet stands for an equal chance, and the blocks are the mean over them.
"""

from collections.abc import Callable, Iterable

from tdpipe.core.block_pool import blocks_for
from tdpipe.core.request import Request
from tdpipe.policies.shared_blocks import SharedBlocks

FUTURE_POINTS = (1, 5, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)

# Blocks of a request at each of FUTURE_POINTS, for a block size and blocks counted elsewhere.
Usage = Callable[[Request, int, int], list[float]]


def predicted_blocks(request: Request, block_size: int, shared: int = 0) -> list[float]:
    """Of a request that ends exactly where it is predicted to (paper 3.2)."""
    remaining = max(1, request.predicted_remaining)
    return [
        blocks_for(request.num_tokens + step, block_size) - shared if step <= remaining else 0
        for step in FUTURE_POINTS
    ]


def expected_blocks(request: Request, block_size: int, shared: int = 0) -> list[float]:
    """Expectation over the quantiles of the forecast, where it has any."""
    generated = len(request.output_token_ids)
    ends = [length - generated for length in request.length_quantiles if length > generated]
    if not ends:
        return predicted_blocks(request, block_size, shared)
    return [
        (blocks_for(request.num_tokens + step, block_size) - shared)
        * (sum(step <= end for end in ends) / len(ends))
        for step in FUTURE_POINTS
    ]


class KVForecast:
    """Predicted blocks in use at each of FUTURE_POINTS for a growing set of requests.

    Blocks that several requests share count once, at all points: who needs them last is not asked.
    """

    def __init__(
        self,
        block_size: int,
        requests: Iterable[Request] = (),
        blocks: Usage = predicted_blocks,
        shared: SharedBlocks | None = None,
    ) -> None:
        self.block_size = block_size
        self.blocks = blocks
        self.shared = shared
        self.usage = [0.0] * len(FUTURE_POINTS)
        for request in requests:
            self.add(request)

    def add(self, request: Request) -> None:
        """Count a request that is resident or about to be."""
        for index, blocks in enumerate(self._more(request)):
            self.usage[index] += blocks
        if self.shared is not None:
            self.shared.add(request)

    def peak_blocks(self) -> float:
        """Blocks in use at the fullest future point."""
        return max(self.usage)

    def peak_with(self, request: Request) -> float:
        """Peak if the request were added; nothing is changed."""
        more = self._more(request)
        return max(used + new for used, new in zip(self.usage, more, strict=True))

    def _more(self, request: Request) -> list[float]:
        if self.shared is None:
            return self.blocks(request, self.block_size, 0)
        new = self.shared.num_new(request)
        own = self.blocks(request, self.block_size, self.shared.num_shared(request))
        return [blocks + new for blocks in own] if new else own
