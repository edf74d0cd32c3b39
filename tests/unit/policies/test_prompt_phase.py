"""The phase in which prompts come in, against the same flow in small steps."""

import pytest

from tdpipe.policies.prompt_phase import prompt_phase

STEP = 1e-3  # of a round


def in_steps(batch_tokens, decodes, most, to_read, prompt, output):
    """Rounds, tokens of a batch and decodes when all has been read, and decodes on average."""
    tokens = min(batch_tokens, most * (1 + prompt / output))
    rounds = total = 0.0
    while to_read > 0:
        to_read -= (tokens - decodes) * STEP
        rounds += STEP
        total += decodes * STEP
        decodes += ((tokens - decodes) / prompt - decodes / output) * STEP
    return rounds, tokens, total / rounds, decodes


@pytest.mark.parametrize(
    "case",
    [
        (64, 0, 1e9, 1200, 40, 110),
        (32, 0, 1e9, 1200, 40, 110),
        (64, 60, 1e9, 3000, 40, 110),  # nearly full of decodes, and it stays so
        (128, 100, 1e9, 5000, 400, 30),  # few decodes last
        (332, 0, 170, 40_000, 100, 200),  # the cache is full at last
        (332, 170, 170, 40_000, 100, 200),
        (48, 0, 1e9, 7, 40, 110),
        (332, 20, 1e9, 50_000, 100, 1000),
    ],
)
def test_as_in_small_steps(case):
    assert tuple(prompt_phase(*case)) == pytest.approx(in_steps(*case), rel=5e-3, abs=2e-3)


def test_prompts_beside_a_full_cache_come_in_as_others_end():
    # 50 decodes of 100 tokens: one ends every second round, and lets one prompt of 300 tokens in.
    phase = prompt_phase(1000, 50, 50, 30_000, 300, 100)
    assert phase.tokens == pytest.approx(50 + 150)
    assert phase.rounds == pytest.approx(200)
    assert phase.decodes == phase.decodes_after == pytest.approx(50)
