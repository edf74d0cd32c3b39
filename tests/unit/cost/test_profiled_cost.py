"""Measured stages as a cost model."""

from dataclasses import replace

import pytest

from tdpipe.core.errors import ConfigError
from tdpipe.cost.cost_model import (
    BatchLoad,
    CostModel,
    decode_load,
    prefill_load,
    slowest_stage_time_s,
)
from tdpipe.cost.profile_table import ProfileTable
from tdpipe.cost.profiled_cost import ProfiledCost, StageProfile, whole_model_profile

DENSE = ProfileTable((8, 108), (0.010, 0.110))
DECODE = ProfileTable((1, 101), (0.020, 0.120))
STAGE = StageProfile(DENSE, DECODE, pair_s=1e-6, kv_token_s=1e-5, row_s=2e-3, projection_s=5e-3)


def test_prefill_is_dense_work_pairs_and_rows():
    load = prefill_load(0, 58)
    assert STAGE.time_s(load) == pytest.approx(0.060 + 58 * 59 / 2 * 1e-6 + 2e-3 + 5e-3)
    silent = prefill_load(0, 58, samples=False)
    assert STAGE.time_s(load) - STAGE.time_s(silent) == pytest.approx(7e-3)


def test_decode_is_its_own_table_and_the_reads_of_the_cache():
    assert STAGE.time_s(decode_load(51, 1000)) == pytest.approx(0.070 + 0.010)
    assert STAGE.time_s(BatchLoad()) == pytest.approx(0.020)


def test_mixed_is_dense_work_over_all_tokens_with_every_rate():
    load = BatchLoad(48, 1000, decode_sequences=10, decode_context_tokens=2000, sampled=11)
    expected = 0.060 + 1000 * 1e-6 + 2000 * 1e-5 + 5e-3 + 11 * 2e-3
    assert STAGE.time_s(load) == pytest.approx(expected)


def test_it_is_a_cost_model():
    slower = replace(STAGE, dense=DENSE.scaled(3), decode=DECODE.scaled(2))
    cost: CostModel = ProfiledCost((STAGE, slower), 1e-3, 1e-6, (16, 14))
    load = decode_load(51, 0)
    assert cost.num_stages == 2
    assert cost.stage_time_s(1, load) == pytest.approx(2 * cost.stage_time_s(0, load))
    assert slowest_stage_time_s(cost, load) == cost.stage_time_s(1, load)
    assert cost.transfer_time_s(500) == pytest.approx(1.5e-3)


def test_stages_of_a_whole_model_share_its_time_by_layers():
    cost = whole_model_profile(DENSE, (3, 1), kv_token_s=4e-6, link_latency_s=2e-5)
    for load in (prefill_load(0, 58), decode_load(58, 0)):
        assert cost.stage_time_s(0, load) == pytest.approx(0.045)
        assert cost.stage_time_s(1, load) == pytest.approx(0.015)
    read = cost.stage_time_s(0, decode_load(58, 1000)) - cost.stage_time_s(0, decode_load(58, 0))
    assert read == pytest.approx(3e-3)
    assert (cost.layers, cost.transfer_time_s(9)) == ((3, 1), 2e-5)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: ProfiledCost((), 0.0, 0.0, ()), "profile.layers"),
        (lambda: ProfiledCost((STAGE,), 0.0, 0.0, (2, 2)), "profile.layers"),
        (lambda: ProfiledCost((STAGE,), -1.0, 0.0, (2,)), "profile.link_latency_s"),
        (lambda: replace(STAGE, pair_s=float("nan")), "profile.pair_s"),
        (lambda: whole_model_profile(DENSE, (2, 0), 0.0), "layers"),
        (lambda: whole_model_profile(DENSE, (), 0.0), "layers"),
    ],
)
def test_what_is_no_profile(make, field):
    with pytest.raises(ConfigError) as raised:
        make()
    assert raised.value.field == field
