"""The peers' workload: seeded log-normal lengths, random token ids, nothing to tokenise.

200 requests have exactly 28,659 prompt and 33,602 output tokens, whatever the seed: the lengths are
drawn, then scaled to these sums.
"""

import random
from dataclasses import dataclass

PROMPT_TOKENS_A_REQUEST = 28659 / 200
OUTPUT_TOKENS_A_REQUEST = 33602 / 200
SIGMA = 0.7
SHORTEST, LONGEST = 4, 1024
# Away from the special tokens at the start of the vocabulary.
TOKEN_RANGE = (100, 49000)


@dataclass(frozen=True)
class WorkItem:
    """One request: prompt token ids, and the exact number of tokens to generate."""

    prompt: list[int]
    output_tokens: int


def make_workload(num_requests: int, seed: int = 0, scale: float = 1.0) -> list[WorkItem]:
    """The same requests for the same arguments; `scale` shortens or lengthens them all."""
    draw = random.Random(seed)
    prompts = _lengths(draw, num_requests, scale * PROMPT_TOKENS_A_REQUEST)
    outputs = _lengths(draw, num_requests, scale * OUTPUT_TOKENS_A_REQUEST)
    return [
        WorkItem([draw.randint(*TOKEN_RANGE) for _ in range(prompt)], output)
        for prompt, output in zip(prompts, outputs, strict=True)
    ]


def _lengths(draw: random.Random, count: int, mean: float) -> list[int]:
    """Log-normal lengths whose sum is exactly round(count * mean)."""
    raw = [draw.lognormvariate(0.0, SIGMA) for _ in range(count)]
    target = round(count * mean)
    scale = target / sum(raw)
    lengths = [max(SHORTEST, min(LONGEST, round(value * scale))) for value in raw]
    order = sorted(range(count), key=lambda index: -lengths[index])
    step = 1 if sum(lengths) < target else -1
    position = 0
    while sum(lengths) != target:  # rounding and cutting leave a small difference
        index = order[position % count]
        if SHORTEST <= lengths[index] + step <= LONGEST:
            lengths[index] += step
        position += 1
    return lengths
