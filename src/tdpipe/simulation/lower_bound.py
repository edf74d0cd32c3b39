"""A time that no schedule can beat, for a workload on given stages with a given KV memory.

Three bounds hold each by itself, so the largest of them holds:

compute   Stage s must compute every token. Whatever the batches, its dense work takes at least
          tokens x min over n of time(n) / n; attention pairs, cached tokens read and sampled rows
          add their own time, which no batching saves. A decode token counts as what is cheaper:
          a share of a decode step, or of a batch with prefills and its sampled rows. Before stage
          s gets its first batch and after it hands on its last one, that batch passes the other
          stages once.
memory    While a decode step of a request is on its way, which takes at least the time L of the
          smallest batch through all stages, the request holds its context in the KV cache. So the
          cache is in use for at least L x (sum of contexts over all steps) token-seconds, and it
          offers capacity x T. This is the price of reading the weights for too few requests.
chain     The steps of one request follow each other: the longest needs its number of steps x L.

What a prompt had in common with others counts nowhere: neither is it computed again, nor stored,
nor need it be read for each request by itself. Speculation would break the assumption that every
other token is computed by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tdpipe.cost.cost_model import BatchLoad, CostModel, decode_load, prefill_pairs
from tdpipe.cost.profiled_cost import ProfiledCost

# Batch sizes at which the time per token is probed; beyond the last it only falls by rounding.
PROBES = tuple(1 << power for power in range(17))
MANY = 1 << 24
# The least that a stage may have to do for a batch: before the first token is sampled, and after.
FIRST_CHUNK = BatchLoad(prefill_tokens=1)
LAST_CHUNK = BatchLoad(prefill_tokens=1, sampled=1)


@dataclass(frozen=True, slots=True)
class LowerBound:
    """The three bounds in seconds; `seconds` is the one that counts, `name` says which it is."""

    compute_s: float
    memory_s: float
    chain_s: float

    @property
    def seconds(self) -> float:
        return max(self.compute_s, self.memory_s, self.chain_s)

    @property
    def name(self) -> str:
        values = {"compute": self.compute_s, "memory": self.memory_s, "chain": self.chain_s}
        return max(values, key=lambda name: values[name])


def lower_bound(
    lengths: Sequence[tuple[int, int]],
    cost: CostModel,
    kv_tokens: int,
    cached_tokens: Sequence[int] | None = None,
) -> LowerBound:
    """The bound for requests of (prompt tokens, output tokens) and a cache of kv_tokens.

    `cached_tokens` of each prompt were computed for another request; None for none of any.
    """
    cached = cached_tokens or [0] * len(lengths)
    own = [(prompt - n, output) for (prompt, output), n in zip(lengths, cached, strict=True)]
    steps = sum(output - 1 for _, output in lengths)
    contexts = sum(_context_steps(prompt, output) for prompt, output in own)
    stages = range(cost.num_stages)
    first_s = [cost.stage_time_s(stage, FIRST_CHUNK) for stage in stages]
    pass_s = [
        min(cost.stage_time_s(stage, load) for load in (LAST_CHUNK, decode_load(1, 0)))
        for stage in stages
    ]
    links_s = (cost.num_stages - 1) * cost.transfer_time_s(1)
    latency_s = sum(pass_s) + links_s
    load = BatchLoad(
        prefill_tokens=sum(prompt for prompt, _ in own),
        prefill_pairs=sum(prefill_pairs(0, prompt) for prompt, _ in own),
        decode_sequences=steps,
        decode_context_tokens=contexts,
        sampled=len(lengths),
    )
    compute_s = max(
        sum(first_s[:stage]) + _work_s(cost, stage, load) + sum(pass_s[stage + 1 :]) + links_s
        for stage in stages
    )
    held = contexts + load.prefill_tokens  # a prompt's own blocks, while its prefill is on its way
    longest = max(output for _, output in lengths)
    return LowerBound(compute_s, latency_s * held / kv_tokens, longest * latency_s)


def _context_steps(prompt: int, output: int) -> int:
    """Sum of the contexts of a request's decode steps: prompt + 1 to prompt + output - 1."""
    return (output - 1) * prompt + output * (output - 1) // 2


def _work_s(cost: CostModel, stage: int, load: BatchLoad) -> float:
    """Least seconds of the load on one stage, however it is cut into batches.

    `load.sampled` are the rows of prefills alone; each decode samples one more.
    """

    def time_s(probe: BatchLoad) -> float:
        return cost.stage_time_s(stage, probe)

    sizes = _probes(cost, stage)
    empty_s = time_s(FIRST_CHUNK)
    token_s = min(time_s(BatchLoad(prefill_tokens=n)) / n for n in sizes)
    row_s = min((time_s(BatchLoad(prefill_tokens=1, sampled=n)) - empty_s) / n for n in sizes)
    pair_s = (time_s(BatchLoad(prefill_tokens=1, prefill_pairs=MANY)) - empty_s) / MANY
    # A sequence is in one batch at a time, so no decode step has more of them than there are.
    steps = [n for n in sizes if n < load.sampled] + [load.sampled]
    step_s = min(time_s(decode_load(n, 0)) / n for n in steps)
    return (
        token_s * load.prefill_tokens
        + row_s * load.sampled
        + pair_s * load.prefill_pairs
        + min(step_s, token_s + row_s) * load.decode_sequences
        + _cached_token_s(cost, stage) * load.decode_context_tokens
    )


def _cached_token_s(cost: CostModel, stage: int) -> float:
    """Least seconds for a cached token that decode attention reads, in a batch of either kind."""
    alone = (BatchLoad(decode_sequences=1), BatchLoad(prefill_tokens=1, decode_sequences=1))
    return min(
        cost.stage_time_s(stage, replace(load, decode_context_tokens=MANY)) / MANY
        - cost.stage_time_s(stage, load) / MANY
        for load in alone
    )


def _probes(cost: CostModel, stage: int) -> list[int]:
    """Batch sizes of which one has the least time per token, or comes close to it.

    Between two points of a measured table the time per token only rises or only falls, so the
    points themselves are probed too.
    """
    sizes = set(PROBES)
    if isinstance(cost, ProfiledCost):
        profile = cost.stages[stage]
        sizes.update(n for n in (*profile.dense.tokens, *profile.decode.tokens) if n > 0)
    return sorted(sizes)
