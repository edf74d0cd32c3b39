"""How many tokens make a batch efficient, read off the cost model."""

from tdpipe.cost.cost_model import BatchLoad, CostModel, slowest_stage_time_s

# No batch is larger; by a roofline none computes at a better rate.
MANY_TOKENS = 8192


def free_tokens(cost: CostModel, slack: float = 0.05) -> int:
    """Tokens that a batch computes in hardly more time than one: the weights are read anyway.

    Args:
        slack: share by which the time may grow.
    """
    limit_s = (1 + slack) * batch_time_s(cost, 1)
    low, high = 1, MANY_TOKENS
    while low < high:
        middle = (low + high + 1) // 2
        if batch_time_s(cost, middle) <= limit_s:
            low = middle
        else:
            high = middle - 1
    return low


def efficient_tokens(cost: CostModel, share: float) -> int:
    """Fewest tokens with which a batch computes at `share` of the best rate."""
    # Where times were measured, that of smaller batches may be the best, by chance or not.
    sizes = [1 << power for power in range(MANY_TOKENS.bit_length())]
    limit_s = min(batch_time_s(cost, size) / size for size in sizes) / share
    high = next(size for size in sizes if batch_time_s(cost, size) <= limit_s * size)
    low = high // 2
    while low + 1 < high:
        middle = (low + high) // 2
        if batch_time_s(cost, middle) <= limit_s * middle:
            high = middle
        else:
            low = middle
    return high


def batch_time_s(cost: CostModel, num_tokens: int) -> float:
    """Time of a batch of prompt tokens on the slowest stage, attention left out."""
    return slowest_stage_time_s(cost, BatchLoad(prefill_tokens=num_tokens))
