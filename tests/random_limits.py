"""Random limits of an engine, from roomy to just enough for the longest request."""

from hypothesis import strategies as st

from tdpipe.core.limits import Limits


def draw_limits(draw, most_requests):
    """Limits whose cache holds one request of max_model_len, and up to most_requests of them."""
    block_size = draw(st.sampled_from([1, 4, 16]))
    longest = draw(st.integers(2, 60))
    least = -(-longest // block_size)
    return Limits(
        num_stages=draw(st.integers(1, 4)),
        block_size=block_size,
        num_blocks=draw(st.integers(least, most_requests * least + 8)),
        max_model_len=longest,
        max_num_seqs=draw(st.sampled_from([1, 3, 256])),
        max_num_batched_tokens=draw(st.sampled_from([1, 32, 2048])),
    )
