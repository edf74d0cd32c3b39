"""The prefills of a batch while they are chosen: tokens to compute and blocks to take for each.

What a prompt has in common with cached ones, or with one chosen before it, is neither computed nor
stored again (core/prefix_cache). The control plane takes the same view when it commits the batch.
"""

from tdpipe.core.block_pool import blocks_for
from tdpipe.core.engine_state import EngineState
from tdpipe.core.prefix_cache import PrefixNode
from tdpipe.core.request import Request
from tdpipe.policies.policy import PrefillChunk


class PrefillDraft:
    """Chunks chosen so far, and the blocks that are left.

    Args:
        free_blocks: blocks that the prefills may take; None for all that are free.
    """

    def __init__(self, state: EngineState, free_blocks: int | None = None) -> None:
        self.chunks: list[PrefillChunk] = []
        self.num_tokens = 0
        self.free_blocks = state.pool.num_free if free_blocks is None else free_blocks
        self._state = state
        self._block_size = state.limits.block_size
        self._computed: set[PrefixNode] = set()  # by the chunks, not cached before
        self._revived: set[PrefixNode] = set()  # cached but idle before

    def start(self, request: Request) -> int:
        """Tokens of a waiting or prefilling request that are there when its next ones are."""
        if request.block_ids:
            return request.num_scheduled
        return len(self._common(request)) * self._block_size

    def tokens_left(self, request: Request) -> int:
        """Known tokens of the request that remain to be computed."""
        return request.num_tokens - self.start(request)

    def blocks(self, request: Request, num_tokens: int | None = None) -> int:
        """Blocks to take for the next num_tokens tokens of the request, None for all left."""
        if request.block_ids:
            left = request.num_unscheduled
            return self._state.blocks_needed(request, left if num_tokens is None else num_tokens)
        common = self._common(request)
        end = request.num_tokens
        if num_tokens is not None:
            end = len(common) * self._block_size + num_tokens
        return blocks_for(end, self._block_size) - len(common) + len(self._idle(common))

    def room_tokens(self, request: Request) -> int:
        """Next tokens of the request for which the free blocks suffice."""
        if request.block_ids:
            slack = len(request.block_ids) * self._block_size - request.num_scheduled
            return self.free_blocks * self._block_size + slack
        return (self.free_blocks - len(self._idle(self._common(request)))) * self._block_size

    def add(self, request: Request, num_tokens: int | None = None) -> None:
        """Choose the next num_tokens tokens of the request, None for all left."""
        start = self.start(request)
        count = request.num_tokens - start if num_tokens is None else num_tokens
        self.free_blocks -= self.blocks(request, count)
        self._note(request, start + count)
        self.num_tokens += count
        self.chunks.append(PrefillChunk(request.request_id, start, count))

    def _common(self, request: Request) -> list[PrefixNode]:
        """The nodes of a waiting request's prompt that it will not compute."""
        path = self._state.prefixes.path(request)
        for depth in range(len(path), 0, -1):
            if path[depth - 1].block_id is not None or path[depth - 1] in self._computed:
                return list(path[:depth])
        return []

    def _idle(self, common: list[PrefixNode]) -> list[PrefixNode]:
        """Those of them whose blocks count as free now, the deepest first."""
        idle: list[PrefixNode] = []
        for node in reversed(common):
            if node in self._computed:
                continue
            assert node.block_id is not None, node
            if node in self._revived or self._state.pool.num_holders(node.block_id):
                break  # who holds a block holds those before it
            idle.append(node)
        return idle

    def _note(self, request: Request, end: int) -> None:
        path = self._state.prefixes.path(request)
        shared = request.num_shared_blocks
        if not request.block_ids:
            common = self._common(request)
            self._revived.update(self._idle(common))
            shared = len(common)
        for node in path[shared : end // self._block_size]:
            if node.block_id is not None or node in self._computed:
                break  # its block will be another's, what follows is this request's own
            self._computed.add(node)
