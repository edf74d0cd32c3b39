"""How decodes gather while waiting prompts are let in beside them: a flow of equal requests.

In a round each of P batches of n tokens holds d decodes and n - d prompt tokens. With p prompt
tokens a request and L tokens to generate, r rounds from now,

    dd/dr = (n - d) / p - d / L           requests that start, less those that end
    d(r)  = e + (d(0) - e) exp(-r / t)    e = n L / (L + p),  1 / t = 1 / p + 1 / L
    prompt tokens read = P ((n - e) r + (e - d(0)) t (1 - exp(-r / t)))

until all prompts have been read. Where the cache holds no more than m decodes a batch, prompts come
in as others end: n is m (1 + p / L) then, and e is m.
"""

from math import exp
from typing import NamedTuple

# Steps of Newton's method, from below: each doubles the digits that are right.
STEPS = 6


class PromptPhase(NamedTuple):
    """What the phase takes.

    Attributes:
        rounds: of P batches, until the last prompt has been read.
        tokens: of a batch.
        decodes: of a batch on average.
        decodes_after: of a batch at the end of the phase.
    """

    rounds: float
    tokens: float
    decodes: float
    decodes_after: float


def prompt_phase(
    batch_tokens: float,
    decodes: float,
    most_decodes: float,
    tokens_to_read: float,
    prompt_tokens: float,
    output_tokens: float,
) -> PromptPhase:
    """The phase from now on.

    Args:
        batch_tokens: n, more than `decodes`.
        decodes: d(0) of a batch.
        most_decodes: m, not less than `decodes`.
        tokens_to_read: waiting prompt tokens by P.
        prompt_tokens, output_tokens: p and L of a request, positive.
    """
    ratio = prompt_tokens / output_tokens
    tokens = min(batch_tokens, most_decodes * (1 + ratio))
    lasting = tokens / (1 + ratio)
    decay_rounds = prompt_tokens / (1 + ratio)
    at_last, at_first = tokens - lasting, tokens - decodes
    more = (lasting - decodes) * decay_rounds
    rounds = tokens_to_read / max(at_first, at_last)
    for _ in range(STEPS):
        left = exp(-rounds / decay_rounds)
        read = at_last * rounds + more * (1 - left)
        rounds += (tokens_to_read - read) / (at_last + (at_first - at_last) * left)
    after = lasting + (decodes - lasting) * exp(-rounds / decay_rounds)
    return PromptPhase(rounds, tokens, tokens - tokens_to_read / rounds, after)
