"""Blocks of tokens that several prompts begin with: computed once, held together, freed at the end.

The prompts of all unfinished requests form a tree, a node for each block of tokens, a path for each
prompt. It is opened only as far as prompts are equal: what only one request has below is one leaf,
so unlike prompts cost one node each. A node's block is cached from the moment that a batch which
computes it is planned (batches run in order on every stage, and within a batch all keys and values
are stored before they are read) until its last user, waiting or resident, has ended.

Three rules keep the cached nodes a tree from the root:
* a request offers a block only if it holds the cached blocks of the path before it,
* so whoever holds a node's block holds its parent's, and the parent never idles before the child,
* and idle blocks are given away in the order in which they became idle.
"""

from collections.abc import Iterable, Sequence

from tdpipe.core.block_pool import BlockPool
from tdpipe.core.request import Request


class PrefixNode:
    """A block of prompt tokens that follows the parent's.

    Attributes:
        depth: blocks from the prompt's beginning, this one included.
        lone: the only request that has come here; None once a second one has.
        num_users: unfinished requests whose prompts pass here, of them num_waiting wait.
        block_id: the cached block, None if there is none.
    """

    __slots__ = ("block_id", "children", "depth", "key", "lone", "num_users", "num_waiting", "up")

    def __init__(self, up: "PrefixNode | None", key: tuple[int, ...]) -> None:
        self.up = up
        self.key = key
        self.depth: int = up.depth + 1 if up is not None else 0
        self.children: dict[tuple[int, ...], PrefixNode] = {}
        self.lone: Request | None = None
        self.num_users = 0
        self.num_waiting = 0
        self.block_id: int | None = None

    @property
    def num_saved(self) -> int:
        """Of the waiting users, those who will not compute the block."""
        return self.num_waiting if self.block_id is not None else max(0, self.num_waiting - 1)


class PrefixCache:
    """The common beginnings of the prompts in a run.

    The last token of a prompt is never shared: computing it yields the first output token.

    Attributes:
        num_common: nodes that more than one request has come to.
        num_saved_blocks: blocks that waiting requests need not compute, summed over requests.
    """

    def __init__(self, pool: BlockPool, block_size: int) -> None:
        self.block_size = block_size
        self.num_common = 0
        self.num_saved_blocks = 0
        self._pool = pool
        self._root = PrefixNode(None, ())
        self._paths: dict[int, list[PrefixNode]] = {}
        self._cached: dict[int, PrefixNode] = {}  # by block id
        pool.on_evict = self._evicted

    def __repr__(self) -> str:
        saved = self.num_saved_blocks
        return f"PrefixCache({len(self._paths)} requests, {sorted(self._cached)}, saved={saved})"

    # ---- what others see

    @property
    def num_saved_tokens(self) -> int:
        """Tokens that waiting requests need not compute, summed over requests."""
        return self.num_saved_blocks * self.block_size

    def path(self, request: Request) -> Sequence[PrefixNode]:
        """The nodes of a request's prompt, as far as another one came along; empty if none did."""
        path = self._paths.get(request.request_id, [])
        return path[:-1] if path and path[-1].lone is not None else path

    def grouped(self, requests: Sequence[Request]) -> list[Request]:
        """The requests with those of a common beginning together, else in their order."""
        first: dict[PrefixNode, int] = {}
        keys: list[tuple[int, ...]] = []
        for index, request in enumerate(requests):
            ranks = [first.setdefault(node, index) for node in self.path(request)]
            keys.append((*ranks, index))
        return [requests[index] for index in sorted(range(len(requests)), key=keys.__getitem__)]

    # ---- requests come and go

    def add(self, request: Request) -> None:
        """Take in a request that is about to wait."""
        prompt, size, node = request.prompt_token_ids, self.block_size, self._root
        path: list[PrefixNode] = []
        for start in range(0, len(prompt) - size, size):
            key = prompt[start : start + size]
            child = node.children.get(key)
            if child is None:
                child = node.children[key] = PrefixNode(node, key)
                child.lone = request
            elif child.lone is not None:
                self._open(child, child.lone)
            child.num_users += 1
            path.append(child)
            if child.lone is not None:
                break
            node = child
        if path:
            self._paths[request.request_id] = path

    def remove(self, request: Request) -> None:
        """Forget a request that has ended and holds nothing; frees what only it used."""
        for node in reversed(self._paths.pop(request.request_id, ())):
            node.num_users -= 1
            if node.num_users == 0:
                assert node.up is not None
                del node.up.children[node.key]
                self.num_common -= node.lone is None
                self._uncache(node)

    def waits(self, request: Request, sign: int) -> None:
        """The request has joined the queue (sign 1) or left it (-1)."""
        for node in self._paths.get(request.request_id, ()):
            before = node.num_saved
            node.num_waiting += sign
            self.num_saved_blocks += node.num_saved - before

    # ---- blocks

    def join(self, request: Request) -> None:
        """Let an admitted request hold the cached blocks that its prompt begins with.

        May be called again as long as it has no blocks of its own.
        """
        path = self._paths.get(request.request_id, ())
        found: list[int] = []
        for node in path[request.num_shared_blocks :]:
            if node.block_id is None:
                break
            found.append(node.block_id)
        self._pool.join(request.request_id, found)
        request.block_ids += found
        request.num_shared_blocks += len(found)
        request.num_scheduled = request.num_shared_blocks * self.block_size

    def offer(self, request: Request) -> None:
        """Cache the blocks that a request has computed, where others may want them."""
        path = self._paths.get(request.request_id, ())
        for node in path[request.num_shared_blocks : request.num_scheduled // self.block_size]:
            if node.lone is not None or node.block_id is not None:
                return
            before = node.num_saved
            node.block_id = request.block_ids[request.num_shared_blocks]
            self.num_saved_blocks += node.num_saved - before
            self._cached[node.block_id] = node
            self._pool.cache(node.block_id)
            request.num_shared_blocks += 1

    def clear(self) -> None:
        """Drop all cached blocks, whose content is lost; no request may hold any."""
        for block_id, node in list(self._cached.items()):
            assert self._pool.num_holders(block_id) == 0, block_id
            self._uncache(node)

    def check(self, waiting: Iterable[Request], resident: Iterable[Request]) -> None:
        """Assert that the tree is that of these requests and its cached part hangs together."""
        waiting, resident = list(waiting), list(resident)
        users: dict[PrefixNode, int] = {}
        queued: dict[PrefixNode, int] = {}
        for request in (*waiting, *resident):
            for node in self._paths.get(request.request_id, ()):
                users[node] = users.get(node, 0) + 1
        for request in waiting:
            assert request.num_shared_blocks == 0, request
            for node in self._paths.get(request.request_id, ()):
                queued[node] = queued.get(node, 0) + 1
        assert self._paths.keys() <= {one.request_id for one in (*waiting, *resident)}
        assert self.num_common == sum(node.lone is None for node in users)
        assert set(self._cached.values()) <= users.keys(), "a block outlives its users"
        assert self.num_saved_blocks == sum(node.num_saved for node in users)
        for node, count in users.items():
            assert (node.num_users, node.num_waiting) == (count, queued.get(node, 0)), node
            assert node.up is not None and node.up.children[node.key] is node
            if node.block_id is not None:
                assert self._cached[node.block_id] is node
                assert node.up is self._root or node.up.block_id is not None
        for request in resident:
            shared = self._paths.get(request.request_id, [])[: request.num_shared_blocks]
            assert [one.block_id for one in shared] == request.block_ids[: len(shared)]
            assert len(shared) == request.num_shared_blocks

    # ---- details

    def _open(self, node: PrefixNode, only: Request) -> None:
        """A second request comes to a node: what follows of the first one becomes a leaf below."""
        node.lone = None
        self.num_common += 1
        start, size = node.depth * self.block_size, self.block_size
        if start + size < len(only.prompt_token_ids):
            leaf = PrefixNode(node, only.prompt_token_ids[start : start + size])
            leaf.lone, leaf.num_users, leaf.num_waiting = only, 1, node.num_waiting
            node.children[leaf.key] = leaf
            self._paths[only.request_id].append(leaf)
        self.offer(only)

    def _evicted(self, block_id: int) -> None:
        node = self._cached.pop(block_id)
        before = node.num_saved
        node.block_id = None
        self.num_saved_blocks += node.num_saved - before

    def _uncache(self, node: PrefixNode) -> None:
        if node.block_id is not None:
            self._pool.uncache(node.block_id)
            self._evicted(node.block_id)
