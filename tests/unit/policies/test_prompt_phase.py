"""The phase in which prompts come in, against the same flow in small steps."""

import pytest

from tdpipe.policies.prompt_phase import prompt_phase

STEP = 1e-3  # of a round


def in_steps(batch_tokens, residents, most, to_read, prompt, output):
    """Rounds until all has been read, tokens of a batch, and its decodes on average."""
    tokens = min(batch_tokens, most * (1 + prompt / output))
    rounds = total = started = 0.0
    while to_read > 0:
        alive = next((number for until, number in residents if rounds < until), 0.0)
        prefills = max(0.0, tokens - alive - started)
        to_read -= prefills * STEP
        rounds += STEP
        total += (tokens - prefills) * STEP
        started += (prefills / prompt - started / output) * STEP
    return rounds, tokens, total / rounds


@pytest.mark.parametrize(
    "case",
    [
        (64, [], 1e9, 1200, 40, 110),
        (32, [], 1e9, 1200, 40, 110),
        (64, [(40, 60), (60, 30), (90, 10)], 1e9, 3000, 40, 110),  # nearly full of decodes
        (64, [(400, 60)], 1e9, 100, 40, 110),  # and it stays so
        (128, [(10, 100), (10, 50), (30, 1)], 1e9, 5000, 400, 30),  # few decodes last
        (332, [], 170, 40_000, 100, 200),  # the cache is full at last
        (332, [(50, 170), (80, 40)], 170, 40_000, 100, 200),
        (48, [], 1e9, 7, 40, 110),
        (332, [(100, 20)], 1e9, 50_000, 100, 1000),
    ],
)
def test_as_in_small_steps(case):
    assert tuple(prompt_phase(*case)) == pytest.approx(in_steps(*case), rel=5e-3, abs=2e-3)


def test_prompts_beside_a_full_cache_come_in_as_others_end():
    # 50 decodes of 100 tokens: one ends every second round, and lets one prompt of 300 tokens in.
    # Those that started are taken to end at any time, so a few more come in.
    residents = [(rounds, 50 - rounds / 2) for rounds in range(2, 101, 2)]
    phase = prompt_phase(1000, residents, 50, 30_000, 300, 100)
    assert phase.tokens == pytest.approx(50 + 150)
    assert 185 < phase.rounds <= 200
