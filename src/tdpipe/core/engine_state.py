"""Everything that policies may look at. The control plane is its only writer."""

from collections import OrderedDict
from dataclasses import dataclass, field

from tdpipe.core.batch_plan import BatchPlan
from tdpipe.core.block_pool import BlockPool, blocks_for
from tdpipe.core.limits import Limits
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
        num_waiting_tokens: tokens that the waiting requests would prefill.
        num_recomputed_tokens: tokens that were prefilled again after a preemption.
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
    num_recomputed_tokens: int = 0

    @property
    def num_decoding(self) -> int:
        """Residents whose prefill has been sent."""
        return len(self.resident) - len(self.prefilling)

    def blocks_needed(self, request: Request, num_tokens: int) -> int:
        """Blocks to take before num_tokens more tokens of the request can be computed."""
        total = blocks_for(request.num_scheduled + num_tokens, self.limits.block_size)
        return total - len(request.block_ids)
