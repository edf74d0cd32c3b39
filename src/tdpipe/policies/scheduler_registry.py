"""Schedulers by name, as users choose them."""

from collections.abc import Callable

from tdpipe.core.errors import ConfigError
from tdpipe.cost.cost_model import CostModel
from tdpipe.policies.adaptive import Adaptive
from tdpipe.policies.decode_turns import all_at_hand
from tdpipe.policies.greedy_prefill import OccupancyPrefill
from tdpipe.policies.hybrid_batching import HybridBatching
from tdpipe.policies.phase_switch import FinishedShareSwitch
from tdpipe.policies.policy import Policy
from tdpipe.policies.separate_batching import SeparateBatching
from tdpipe.policies.temporal_disaggregation import TemporalDisaggregation
from tdpipe.policies.token_throttling import TokenThrottling
from tdpipe.policies.work_stealing import keep

SCHEDULERS: dict[str, Callable[[CostModel], Policy]] = {
    "adaptive": Adaptive,
    "td-pipe": TemporalDisaggregation,
    "pp-separate": lambda cost: SeparateBatching(),
    "pp-hybrid": lambda cost: HybridBatching(),
    "pp-hybrid-2048": lambda cost: HybridBatching(2048),
    "token-throttling": lambda cost: TokenThrottling(),
    # Both with decode batches as uneven as they come.
    "pp-separate-unbalanced": lambda cost: SeparateBatching(all_at_hand),
    "pp-hybrid-unbalanced": lambda cost: HybridBatching(share=all_at_hand),
    # td-pipe with one part replaced by a fixed rule.
    "td-pipe-occupancy": lambda cost: TemporalDisaggregation(cost, OccupancyPrefill()),
    "td-pipe-no-stealing": lambda cost: TemporalDisaggregation(cost, balance=keep),
    "td-pipe-finished": lambda cost: TemporalDisaggregation(cost, switch=FinishedShareSwitch()),
}
# Those whose batches hold prefill and decode together.
MIXES_PHASES = frozenset(
    ("adaptive", "pp-hybrid", "pp-hybrid-2048", "pp-hybrid-unbalanced", "token-throttling")
)
# The same batching where all devices share one stage.
TENSOR_PARALLEL: dict[str, str] = {"tp-separate": "pp-separate", "tp-hybrid": "pp-hybrid"}


def make_scheduler(name: str, cost: CostModel) -> Policy:
    """A fresh scheduler of that name.

    Raises:
        ConfigError: there is none of that name.
    """
    name = TENSOR_PARALLEL.get(name, name)
    if name not in SCHEDULERS:
        raise ConfigError("scheduler", name, f"use one of {', '.join(SCHEDULERS)}")
    return SCHEDULERS[name](cost)
