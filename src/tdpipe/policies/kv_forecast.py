"""Simulated KV memory: blocks in use at future decode steps, from predicted output lengths.

Paper 3.2, Algorithm 1. A request still alive f steps from now holds
ceil((context_now + f) / block_size) blocks; one predicted to have ended by then holds none.
Differs from the reference code on purpose: the first future point is the very next step, so that
a request predicted to end within 5 steps still counts.
"""

from collections.abc import Iterable

from tdpipe.core.block_pool import blocks_for
from tdpipe.core.request import Request

FUTURE_POINTS = (1, 5, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class KVForecast:
    """Predicted blocks in use at each of FUTURE_POINTS for a growing set of requests."""

    def __init__(self, block_size: int, requests: Iterable[Request] = ()) -> None:
        self.block_size = block_size
        self.usage = [0] * len(FUTURE_POINTS)
        for request in requests:
            self.add(request)

    def add(self, request: Request) -> None:
        """Count a request that is resident or about to be."""
        for index, blocks in enumerate(self._blocks(request)):
            self.usage[index] += blocks

    def peak_blocks(self) -> int:
        """Blocks in use at the fullest future point."""
        return max(self.usage)

    def peak_with(self, request: Request) -> int:
        """Peak if the request were added; nothing is changed."""
        return max(used + new for used, new in zip(self.usage, self._blocks(request), strict=True))

    def _blocks(self, request: Request) -> list[int]:
        remaining = max(1, request.predicted_remaining)
        return [
            blocks_for(request.num_tokens + step, self.block_size) if step <= remaining else 0
            for step in FUTURE_POINTS
        ]
