"""How decodes gather while waiting prompts are let in beside them: a flow of equal requests.

In a round each of P batches of n tokens holds a decodes of requests that are there already, s of
such as have started since, and n - a - s prompt tokens. With p prompt tokens a request and L tokens
to generate, while a is the same,

    ds/dr = (n - a - s) / p - s / L       requests that start, less those that end
    s(r)  = e + (s(0) - e) exp(-r / t)    e = (n - a) L / (L + p),  1 / t = 1 / p + 1 / L
    prompt tokens read = P ((n - a - e) r + (e - s(0)) t (1 - exp(-r / t)))

until all prompts have been read; a falls as the residents end. Where the cache holds no more than m
decodes a batch, prompts come in as others end: n is no more than m (1 + p / L) then.
"""

from collections.abc import Iterable
from math import exp, inf
from typing import NamedTuple

# Steps of Newton's method, from below: each doubles the digits that are right.
STEPS = 5


class PromptPhase(NamedTuple):
    """What the phase takes.

    Attributes:
        rounds: of P batches, until the last prompt has been read.
        tokens: of a batch.
        decodes: of a batch on average.
    """

    rounds: float
    tokens: float
    decodes: float


def prompt_phase(
    batch_tokens: float,
    residents: Iterable[tuple[float, float]],
    most_decodes: float,
    tokens_to_read: float,
    prompt_tokens: float,
    output_tokens: float,
) -> PromptPhase:
    """The phase from now on.

    Args:
        batch_tokens: n.
        residents: until which round how many of a batch decode, of those that are there; the first
            number less than n. None are left after the last.
        most_decodes: m, not less than the first number.
        tokens_to_read: waiting prompt tokens by P.
        prompt_tokens, output_tokens: p and L of a request, positive.
    """
    ratio = prompt_tokens / output_tokens
    decay_rounds = prompt_tokens / (1 + ratio)
    tokens = min(batch_tokens, most_decodes * (1 + ratio))
    now = started = 0.0
    to_read = tokens_to_read
    for until, alive in (*residents, (inf, 0.0)):
        space = max(0.0, tokens - alive)
        lasting = space / (1 + ratio)
        at_last = space - lasting
        more = (lasting - started) * decay_rounds
        if until > now:
            left = exp((now - until) / decay_rounds)
            read = at_last * (until - now) + more * (1 - left)
            if read >= to_read:
                break
            to_read, now = to_read - read, until
            started = lasting + (started - lasting) * left
    rounds = to_read / max(space - started, at_last)
    for _ in range(STEPS):
        left = exp(-rounds / decay_rounds)
        read = at_last * rounds + more * (1 - left)
        rounds += (to_read - read) / (at_last + (space - started - at_last) * left)
    rounds += now
    return PromptPhase(rounds, tokens, tokens - tokens_to_read / rounds)
