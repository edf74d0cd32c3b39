"""Everything that policies may look at. The control plane is its only writer."""

from collections import OrderedDict
from dataclasses import dataclass, field

from tdpipe.core.batch_plan import BatchPlan
from tdpipe.core.block_pool import BlockPool, blocks_for
from tdpipe.core.limits import Limits
from tdpipe.core.prefix_cache import PrefixCache
from tdpipe.core.request import Request


@dataclass(slots=True)
class EngineState:
    """Requests by id and plans in flight by batch id.

    Attributes:
        waiting: requests without blocks, in order of service.
        resident: requests that hold blocks, in order of admission.
        prefilling: residents with a part of their prefill still to be sent.
        ready: residents that may decode now, in the order their last tokens came back.
        in_flight: plans on their way, in order of submission.
        num_waiting_tokens: known tokens of the waiting requests.
        prefixes: which blocks their prompts and those of the residents have in common.
    """

    limits: Limits
    pool: BlockPool
    waiting: OrderedDict[int, Request] = field(default_factory=OrderedDict)
    resident: dict[int, Request] = field(default_factory=dict)
    prefilling: dict[int, Request] = field(default_factory=dict)
    ready: dict[int, Request] = field(default_factory=dict)
    in_flight: dict[int, BatchPlan] = field(default_factory=dict)
    num_waiting_tokens: int = 0
    num_finished: int = 0
    num_preemptions: int = 0
    prefixes: PrefixCache = field(init=False)

    def __post_init__(self) -> None:
        self.prefixes = PrefixCache(self.pool, self.limits.block_size)

    @property
    def num_tokens_to_prefill(self) -> int:
        """Tokens that the waiting requests will compute, common prefixes once."""
        return self.num_waiting_tokens - self.prefixes.num_saved_tokens

    @property
    def num_decoding(self) -> int:
        """Residents whose prefill has been sent."""
        return len(self.resident) - len(self.prefilling)

    def blocks_needed(self, request: Request, num_tokens: int) -> int:
        """Blocks to take before num_tokens more tokens of a resident can be computed."""
        total = blocks_for(request.num_scheduled + num_tokens, self.limits.block_size)
        return total - len(request.block_ids)

    def blocks_freed(self, request: Request) -> int:
        """Blocks that nobody else holds: what a resident's preemption would free."""
        shared = request.block_ids[: request.num_shared_blocks]
        others = sum(self.pool.num_holders(block_id) > 1 for block_id in shared)
        return len(request.block_ids) - others
