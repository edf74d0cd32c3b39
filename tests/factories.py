"""One-line makers of what the tests need; no torch."""

from collections.abc import Sequence

from tdpipe.control.control_plane import ControlPlane, NewRequest
from tdpipe.core.block_pool import BlockPool
from tdpipe.core.engine_state import EngineState
from tdpipe.core.limits import Limits
from tdpipe.core.model_shape import ModelShape
from tdpipe.core.request import Request
from tdpipe.core.sampling_params import SamplingParams
from tdpipe.cost.hardware_catalogue import CPU_CORE, CPU_LINK
from tdpipe.cost.partition import balanced_partition
from tdpipe.cost.roofline_cost import RooflineCost
from tdpipe.policies.policy import Policy
from tdpipe.policies.scheduler_registry import make_scheduler
from tdpipe.prediction.length_predictor import LengthPredictor
from tdpipe.prediction.max_tokens import MaxTokensPredictor

SMALL_MODEL = ModelShape(30, 576, 1536, 9, 3, 64, 49152, True)


def make_cost(num_stages: int = 2) -> RooflineCost:
    layers = balanced_partition(SMALL_MODEL, num_stages, CPU_CORE, 4)
    return RooflineCost(SMALL_MODEL, layers, CPU_CORE, CPU_LINK, 4)


def make_limits(num_stages: int = 2, num_blocks: int = 64, **changes: int) -> Limits:
    settings = {"block_size": 16, "max_model_len": 4096, **changes}
    return Limits(num_stages=num_stages, num_blocks=num_blocks, **settings)


def make_new(request_id: int = 0, num_prompt: int = 8, max_tokens: int = 4, **params) -> NewRequest:
    params = {"temperature": 0.0, "max_tokens": max_tokens, "ignore_eos": True, **params}
    prompt = tuple(range(100, 100 + num_prompt))
    return NewRequest(request_id, prompt, SamplingParams(**params), eos_token_ids=(2,))


def make_request(
    request_id: int = 0, num_prompt: int = 8, predicted: int = 4, max_tokens: int | None = None
) -> Request:
    prompt = tuple(range(100, 100 + num_prompt))
    params = SamplingParams(max_tokens=max_tokens or predicted)
    limit = params.max_tokens or predicted
    return Request(request_id, prompt, params, limit, 0, predicted_tokens=predicted)


def make_state(limits: Limits | None = None, waiting: Sequence[Request] = ()) -> EngineState:
    limits = limits or make_limits()
    state = EngineState(limits, BlockPool(limits.num_blocks))
    state.waiting.update((request.request_id, request) for request in waiting)
    return state


def add_resident(state: EngineState, request: Request) -> Request:
    """Make the request resident and decodable: prefilled, with its first token back."""
    num_blocks = -(-request.num_tokens // state.limits.block_size)
    request.block_ids.extend(state.pool.hold(request.request_id, num_blocks))
    request.num_scheduled = request.prefill_target = request.num_tokens
    request.output_token_ids.append(1)
    request.admission = len(state.resident)
    state.resident[request.request_id] = state.ready[request.request_id] = request
    return request


def make_control(
    scheduler: str | Policy = "td-pipe",
    limits: Limits | None = None,
    predictor: LengthPredictor | None = None,
    **parts: object,
) -> ControlPlane:
    limits = limits or make_limits()
    policy = scheduler
    if isinstance(scheduler, str):
        policy = make_scheduler(scheduler, make_cost(limits.num_stages))
    return ControlPlane(limits, policy, predictor or MaxTokensPredictor(), **parts)
