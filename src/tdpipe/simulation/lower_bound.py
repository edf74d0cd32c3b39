"""A time that no schedule can beat, for a workload on given stages with a given KV memory.

Three bounds hold each by itself, so the largest of them holds:

compute   Stage s must compute every token. Whatever the batches, its dense work takes at least
          tokens x min over n of time(n) / n; attention pairs, cached tokens read and sampled rows
          add their own time, which no batching saves. Before stage s gets its first batch and
          after it hands on its last one, that batch passes the other stages once.
memory    While a decode step of a request is on its way, which takes at least the time L of the
          smallest batch through all stages, the request holds its context in the KV cache. So the
          cache is in use for at least L x (sum of contexts over all steps) token-seconds, and it
          offers capacity x T. This is the price of reading the weights for too few requests.
chain     The steps of one request follow each other: the longest needs its number of steps x L.

Prefix sharing and speculation would break the assumption that every token is computed by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tdpipe.cost.cost_model import BatchLoad, CostModel, decode_load, prefill_pairs

# Batch sizes at which the time per token is probed; beyond the last it only falls by rounding.
PROBES = tuple(1 << power for power in range(17))
MANY = 1 << 24


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


def lower_bound(lengths: Sequence[tuple[int, int]], cost: CostModel, kv_tokens: int) -> LowerBound:
    """The bound for requests of (prompt tokens, output tokens) and a cache of kv_tokens."""
    steps = sum(output - 1 for _, output in lengths)
    contexts = sum(_context_steps(prompt, output) for prompt, output in lengths)
    pass_s = [cost.stage_time_s(stage, decode_load(1, 0)) for stage in range(cost.num_stages)]
    latency_s = sum(pass_s) + (cost.num_stages - 1) * cost.transfer_time_s(1)
    load = BatchLoad(
        prefill_tokens=sum(prompt for prompt, _ in lengths),
        prefill_pairs=sum(prefill_pairs(0, prompt) for prompt, _ in lengths),
        decode_sequences=steps,
        decode_context_tokens=contexts,
        sampled=sum(output for _, output in lengths),
    )
    compute_s = max(
        _work_s(cost, stage, load) + latency_s - pass_s[stage] for stage in range(cost.num_stages)
    )
    held = contexts + load.prefill_tokens  # a prompt's own blocks, while its prefill is on its way
    longest = max(output for _, output in lengths)
    return LowerBound(compute_s, latency_s * held / kv_tokens, longest * latency_s)


def _context_steps(prompt: int, output: int) -> int:
    """Sum of the contexts of a request's decode steps: prompt + 1 to prompt + output - 1."""
    return (output - 1) * prompt + output * (output - 1) // 2


def _work_s(cost: CostModel, stage: int, load: BatchLoad) -> float:
    """Least seconds of the load on one stage, however it is cut into batches."""
    token_s = min(cost.stage_time_s(stage, BatchLoad(prefill_tokens=n)) / n for n in PROBES)
    empty_s = cost.stage_time_s(stage, BatchLoad(prefill_tokens=1))

    def extra_s(probe: BatchLoad) -> float:
        return cost.stage_time_s(stage, probe) - empty_s

    pair_s = extra_s(BatchLoad(prefill_tokens=1, prefill_pairs=MANY)) / MANY
    cached_s = extra_s(BatchLoad(prefill_tokens=1, decode_context_tokens=MANY)) / MANY
    row_s = min(extra_s(BatchLoad(prefill_tokens=1, sampled=n)) / n for n in PROBES)
    return (
        token_s * load.num_tokens
        + pair_s * load.prefill_pairs
        + cached_s * load.decode_context_tokens
        + row_s * load.sampled
    )
