"""Everything that policies may look at. The control plane is its only writer."""

from collections import deque
from dataclasses import dataclass, field

from tdpipe.core.batch_plan import BatchPlan
from tdpipe.core.block_pool import BlockPool, blocks_for
from tdpipe.core.limits import Limits
from tdpipe.core.request import Request


@dataclass(slots=True)
class EngineState:
    """Waiting requests in order of service, resident ones in order of admission, plans in flight
    in order of submission (by batch id)."""

    limits: Limits
    pool: BlockPool
    waiting: deque[Request] = field(default_factory=deque)
    resident: dict[int, Request] = field(default_factory=dict)
    in_flight: dict[int, BatchPlan] = field(default_factory=dict)
    num_finished: int = 0
    num_preemptions: int = 0

    def blocks_needed(self, request: Request, num_tokens: int) -> int:
        """Blocks to take before num_tokens more tokens of the request can be computed."""
        total = blocks_for(request.num_scheduled + num_tokens, self.limits.block_size)
        return total - len(request.block_ids)
