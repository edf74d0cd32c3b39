"""A few requests over stages whose measured times are those of a restless machine."""

import pytest

from tdpipe.control.arrivals import TimedRequest
from tdpipe.core.limits import Limits
from tdpipe.cost.profile_table import ProfileTable, rising
from tdpipe.cost.profiled_cost import ProfiledCost, StageProfile
from tdpipe.policies.scheduler_registry import make_scheduler
from tdpipe.prediction.online import OnlinePredictor
from tdpipe.simulation.simulated_run import simulate
from tdpipe.simulation.workload import requests_of_lengths

LIMITS = Limits(num_stages=2, block_size=32, num_blocks=1456, max_model_len=8192)
PROMPTS = (8, 16, 32, 64, 128, 256, 512)
DECODES = (1, 2, 4, 6, 8, 16, 32, 64, 256)
# Milliseconds of two stages of 17 and 13 layers: prompts, then decodes. One sequence takes longer
# than eight, and 64 tokens less for each than 512.
RESTLESS = (
    ((19.9, 26.2, 50.2, 89.0, 180, 368, 732), (20.5, 18.0, 19.3, 18.5, 18.6, 23.2, 45.7, 113, 358)),
    ((11.4, 22.5, 42.8, 70.4, 136, 299, 552), (18.0, 21.5, 22.0, 21.2, 18.1, 30.7, 57.1, 106, 434)),
)
CALM = (
    ((19.1, 23.4, 42.1, 79.5, 155, 310, 620), (18.6, 18.6, 18.6, 18.6, 18.6, 24, 45, 90, 358)),
    ((11.4, 16.2, 32.3, 64.0, 128, 250, 495), (18.0, 18.0, 18.0, 18.0, 18.1, 27, 52, 104, 412)),
)


def table(counts, milliseconds):
    return rising({one: time_ms / 1e3 for one, time_ms in zip(counts, milliseconds, strict=True)})


def seconds(scheduler, stages, lengths):
    profiles = tuple(
        StageProfile(table(PROMPTS, prompts), table(DECODES, decodes), kv_token_s=1.6e-6)
        for prompts, decodes in stages
    )
    cost = ProfiledCost(profiles, 1e-4, 0.0, (17, 13), engine_s=1e-3)
    requests = [TimedRequest(0.0, request) for request in requests_of_lengths(lengths)]
    policy = make_scheduler(scheduler, cost)
    return simulate(
        requests, policy, cost, LIMITS, OnlinePredictor(), engine_overhead_s=cost.engine_s
    ).makespan_s


@pytest.mark.parametrize("stages", [RESTLESS, CALM], ids=["restless", "calm"])
@pytest.mark.parametrize("number", [8, 20, 40])
@pytest.mark.parametrize(
    ("prompts", "outputs"), [((20, 60), (60, 160)), ((300, 500), (30, 50)), ((20, 400), (20, 400))]
)
def test_adaptive_keeps_up(stages, number, prompts, outputs):
    """Of lengths spread evenly, in an order of no meaning."""
    places = [index * 7 % number / (number - 1) for index in range(number)]
    lengths = [
        tuple(
            round(low + (high - low) * place)
            for (low, high), place in ((prompts, at), (outputs, places[-1 - index]))
        )
        for index, at in enumerate(places)
    ]
    own_s = seconds("adaptive", stages, lengths)
    rivals_s = [seconds(name, stages, lengths) for name in ("td-pipe", "token-throttling")]
    assert own_s < 1.06 * min(rivals_s)


def test_more_work_never_takes_less_time():
    assert rising({2: 3.0, 1: 4.0, 4: 5.0, 3: 2.0}) == ProfileTable(
        (1, 2, 3, 4), (2.0, 2.0, 2.0, 5.0)
    )
