"""Whether a request can ever be served within the limits, and how long its output may be."""

from tdpipe.core.errors import RequestRejected
from tdpipe.core.limits import Limits
from tdpipe.core.sampling_params import SamplingParams


def check_request(num_prompt: int, params: SamplingParams, limits: Limits) -> int:
    """Output tokens that the request may have.

    Raises:
        RequestRejected: the prompt is empty or leaves no room for an output, or prompt and
            max_tokens together exceed max_model_len or the KV cache.
    """
    longest = min(limits.max_model_len, limits.kv_tokens)
    if num_prompt == 0:
        raise RequestRejected("prompt", "", "give at least one token")
    if num_prompt >= longest:
        fix = f"use at most {longest - 1} tokens, or raise max_model_len or the KV memory"
        raise RequestRejected("prompt", f"{num_prompt} tokens", fix)
    room = longest - num_prompt
    if params.max_tokens is None:
        return room
    if params.max_tokens > room:
        fix = (
            f"use at most {room} after a prompt of {num_prompt} tokens (the limit for both is "
            f"{longest}: max_model_len {limits.max_model_len}, KV cache {limits.kv_tokens})"
        )
        raise RequestRejected("max_tokens", params.max_tokens, fix)
    return params.max_tokens
