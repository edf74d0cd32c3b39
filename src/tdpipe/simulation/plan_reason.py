"""Why one plan is faster than another, in figures of both."""

from tdpipe.cost.cost_model import decode_load
from tdpipe.simulation.layouts import layout_name
from tdpipe.simulation.plan import Plan

# Differences of a share or a ratio that are worth a word.
SHARE_STEP = 0.02
RATIO_STEP = 1.05


def plan_name(plan: Plan) -> str:
    """Layout and scheduler, such as "PP4 adaptive"."""
    return f"{layout_name(plan.scenario.placement)} {plan.scheduler}"


def reasons(best: Plan, other: Plan) -> list[str]:
    """What speaks for the first of two simulated plans, most often seen first; perhaps nothing."""
    found = []
    more, fewer = best.scenario.placement.num_devices, other.scenario.placement.num_devices
    if more > fewer:
        found.append(f"{more} devices at work instead of {fewer}")
    for name, mine, its in (
        ("bubbles", best.bubble_share, other.bubble_share),
        ("all-reduces", best.communication_share, other.communication_share),
    ):
        if mine < its - SHARE_STEP:
            found.append(f"{name} {mine:.0%} of the time instead of {its:.0%}")
    mine_tokens, its_tokens = (plan.scenario.limits().kv_tokens for plan in (best, other))
    if mine_tokens > RATIO_STEP * its_tokens:
        found.append(f"a cache of {mine_tokens} tokens instead of {its_tokens}")
    mine_s, its_s = pass_time_s(best), pass_time_s(other)
    if mine_s * RATIO_STEP < its_s:
        found.append(f"a token takes {mine_s * 1e3:.0f} ms at least instead of {its_s * 1e3:.0f}")
    if best.run is not None and other.run is not None and best.basis is other.basis:
        mine_batches, its_batches = best.run.num_batches, other.run.num_batches
        if mine_batches * RATIO_STEP < its_batches:
            found.append(f"{mine_batches} batches instead of {its_batches}")
        mine_share, its_share = best.run.recomputed_share, other.run.recomputed_share
        if mine_share < its_share - SHARE_STEP:
            found.append(f"{mine_share:.0%} of the tokens recomputed instead of {its_share:.0%}")
    return found


def pass_time_s(plan: Plan) -> float:
    """Seconds of one token through all stages: what the steps of one request cannot undercut."""
    cost = plan.scenario.placement.cost()
    stages_s = sum(cost.stage_time_s(stage, decode_load(1, 0)) for stage in range(cost.num_stages))
    return stages_s + (cost.num_stages - 1) * cost.transfer_time_s(1)
