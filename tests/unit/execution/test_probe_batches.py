"""Probes are batches that a stage can run: contiguous, within the cache, released afterwards."""

import pytest

from factories import make_limits
from tdpipe.core.batch_plan import Phase
from tdpipe.cost.cost_model import plan_load
from tdpipe.execution.probe_batches import Probe, ProbeBatches

LIMITS = make_limits(num_blocks=20, max_model_len=128)
PROMPTS = Probe(num_prefills=3, prefill_tokens=20, samples=True)
DECODES = Probe(num_decodes=4, context_tokens=33)
MIXED = Probe(1, 40, num_decodes=2, context_tokens=17)


def blocks_of(plans):
    return {block for plan in plans for piece in plan.slices for block in piece.new_block_ids}


@pytest.mark.parametrize("probe", [PROMPTS, DECODES, MIXED, Probe(2, 8)])
def test_every_batch_is_the_probes_load(probe):
    plans = ProbeBatches(LIMITS).plans(probe, 3)
    assert [plan_load(plan) for plan in plans] == [probe.load] * 3
    assert [plan.batch_id for plan in plans] == [1, 2, 3]
    assert {plan.num_prefills for plan in plans} == {probe.num_prefills}


def test_phases():
    batches = ProbeBatches(LIMITS)
    phases = [batches.plans(probe, 1)[0].phase for probe in (PROMPTS, DECODES, MIXED)]
    assert phases == [Phase.PREFILL, Phase.DECODE, Phase.MIXED]


def test_workers_get_what_they_need_and_forget_the_rest():
    """Block tables cover every context, and what a probe began the next one releases."""
    batches = ProbeBatches(LIMITS)
    blocks, started = {}, set()
    for probe in (PROMPTS, DECODES, MIXED, PROMPTS):
        for plan in batches.plans(probe, 3):
            for request_id in plan.released:
                del blocks[request_id]
            started |= {start.request_id for start in plan.starts}
            for piece in plan.slices:
                held = blocks.setdefault(piece.request_id, [])
                held += piece.new_block_ids
                assert piece.request_id in started
                assert len(held) == -(-piece.context_tokens // LIMITS.block_size)
                assert all(0 <= block < LIMITS.num_blocks for block in held)
    assert len(blocks) == 3  # the last batch's prompts


def test_decodes_read_what_prompts_wrote():
    batches = ProbeBatches(LIMITS)
    written = {
        b for plan in batches.plans(PROMPTS, 2) for s in plan.slices for b in s.new_block_ids
    }
    read = {b for s in batches.plans(DECODES, 1)[0].slices for b in s.new_block_ids}
    assert written == set(range(12)) and read == written


def test_fits():
    assert PROMPTS.fits(LIMITS) and DECODES.fits(LIMITS)
    assert not Probe(1, 129).fits(LIMITS)
    assert not Probe(num_decodes=1, context_tokens=129).fits(LIMITS)
    assert not Probe(11, 20).fits(LIMITS)
    assert not Probe(6, 20, num_decodes=3, context_tokens=40).fits(LIMITS)
