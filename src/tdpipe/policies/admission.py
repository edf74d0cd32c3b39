"""Which waiting requests may get blocks now; shared by all schedulers."""

from collections.abc import Iterator
from itertools import islice

from tdpipe.core.engine_state import EngineState
from tdpipe.core.request import Request

# Share of the blocks that the rivals keep free at admission, so that running requests can grow a
# little (vLLM's watermark). TD-Pipe forecasts instead.
WATERMARK = 0.01


def free_places(state: EngineState) -> int:
    """Requests that may still become resident: P decode batches of max_num_seqs each."""
    limits = state.limits
    return limits.num_stages * limits.max_num_seqs - len(state.resident)


def waiting_that_may_enter(state: EngineState) -> Iterator[Request]:
    """Waiting requests in order of service, as many as there are places for."""
    return islice(state.waiting.values(), max(0, free_places(state)))
