"""Token throttling's formula, by hand."""

from factories import add_resident, make_limits, make_request, make_state
from tdpipe.policies.token_throttling import TokenThrottling


def state_with(waiting_tokens, num_blocks=1000, used_blocks=0):
    state = make_state(make_limits(num_blocks=num_blocks))
    state.num_waiting_tokens = waiting_tokens
    if used_blocks:
        add_resident(state, make_request(0, used_blocks * 16))
    return state


def test_demand_is_clamped():
    policy = TokenThrottling()
    assert policy.prefill_tokens(state_with(80)) == 32
    assert policy.prefill_tokens(state_with(8 * 500)) == 500
    assert policy.prefill_tokens(state_with(10**6)) == 2048


def test_a_filling_cache_throttles():
    policy = TokenThrottling()
    # 500 of 1000 blocks used: 2048 x (0.5 - 0.05) / 0.95 = 970
    assert policy.prefill_tokens(state_with(10**6, used_blocks=500)) == 970
    # 945 used: 2048 x 0.005 / 0.95 = 11 tokens
    assert policy.prefill_tokens(state_with(10**6, used_blocks=945)) == 11
    assert policy.prefill_tokens(state_with(10**6, used_blocks=960)) == 0


def test_decodes_and_prefill_share_a_batch():
    state = make_state(make_limits(num_blocks=1000), [make_request(9, 600)])
    state.num_waiting_tokens = 600
    for index in range(4):
        add_resident(state, make_request(index, 16))
    choice = TokenThrottling().plan(state, 0.0)
    assert choice.decodes == (0, 1)  # one of two stages' share
    assert [(chunk.request_id, chunk.num_tokens) for chunk in choice.prefills] == [(9, 75)]
