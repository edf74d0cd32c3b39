"""Schedulers by name, as users choose them."""

from collections.abc import Callable

from tdpipe.core.errors import ConfigError
from tdpipe.cost.cost_model import CostModel
from tdpipe.policies.hybrid_batching import HybridBatching
from tdpipe.policies.policy import Policy
from tdpipe.policies.separate_batching import SeparateBatching
from tdpipe.policies.temporal_disaggregation import TemporalDisaggregation

SCHEDULERS: dict[str, Callable[[CostModel], Policy]] = {
    "td-pipe": TemporalDisaggregation,
    "pp-separate": lambda cost: SeparateBatching(),
    "pp-hybrid": lambda cost: HybridBatching(),
}


def make_scheduler(name: str, cost: CostModel) -> Policy:
    """A fresh scheduler of that name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in SCHEDULERS:
        raise ConfigError("scheduler", name, f"use one of {', '.join(SCHEDULERS)}")
    return SCHEDULERS[name](cost)
