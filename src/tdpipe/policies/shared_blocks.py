"""Counts blocks that several requests share once, for forecasts of the KV cache."""

from tdpipe.core.engine_state import EngineState
from tdpipe.core.prefix_cache import PrefixNode
from tdpipe.core.request import Request


class SharedBlocks:
    """The shared blocks of a growing set of requests."""

    @classmethod
    def of(cls, state: EngineState) -> "SharedBlocks | None":
        """None if no requests share any, which spares forecasts the questions."""
        return cls(state) if state.prefixes.num_common else None

    def __init__(self, state: EngineState) -> None:
        self._prefixes = state.prefixes
        self._counted: set[PrefixNode] = set()

    def num_shared(self, request: Request) -> int:
        """Blocks that the request has, or will have, together with others."""
        return len(self._prefixes.path(request))

    def num_new(self, request: Request) -> int:
        """Of these, blocks that no request added so far has."""
        path = self._prefixes.path(request)
        known = len(path)
        while known and path[known - 1] not in self._counted:
            known -= 1
        return len(path) - known

    def add(self, request: Request) -> int:
        """Count a request; returns how many of its shared blocks are new."""
        new = self.num_new(request)
        if new:
            self._counted.update(self._prefixes.path(request)[-new:])
        return new
