"""Decode batches for schedulers without lanes: P equal shares, taken oldest first.

A share is sized by all residents that decode, not by those at hand, so that batches which drifted
apart become equal again; and no more than P decode batches travel at once, else the surplus ones
would be fragments.
"""

from collections.abc import Callable
from operator import attrgetter

from tdpipe.core.batch_plan import Phase
from tdpipe.core.engine_state import EngineState
from tdpipe.core.request import Request

# Which requests decode in the next batch.
DecodeShare = Callable[[EngineState], list[Request]]


def next_decode_share(state: EngineState) -> list[Request]:
    """The oldest requests at hand, at most one P-th of all that decode, rounded up."""
    return all_at_hand(state)[: -(-state.num_decoding // state.limits.num_stages)]


def all_at_hand(state: EngineState) -> list[Request]:
    """The requests at hand, whatever their number: what a queue gives that balances nothing."""
    at_hand = sorted(state.ready.values(), key=attrgetter("admission"))
    return at_hand[: state.limits.max_num_seqs]


def decode_batches_in_flight(state: EngineState) -> int:
    """Batches on their way that advance at least one decoding request."""
    return sum(plan.phase is not Phase.PREFILL for plan in state.in_flight.values())
