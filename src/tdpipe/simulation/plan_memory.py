"""The memory that a layout needs, and what it would take where none fits."""

from tdpipe.core.block_pool import blocks_for
from tdpipe.core.errors import CapacityError
from tdpipe.cost.hardware_catalogue import GIB
from tdpipe.cost.placement import WORKSPACE_BYTES, place
from tdpipe.simulation.layouts import MOST_DEVICES, RANKS, layouts
from tdpipe.simulation.plan import PlanQuestion
from tdpipe.simulation.scenario import Scenario


def needed_bytes(scenario: Scenario) -> float:
    """Memory that a device must have for the weights and the cache of the longest request."""
    placement = scenario.placement
    num_blocks = blocks_for(scenario.longest_tokens, scenario.block_size)

    def used_bytes(stage: int) -> float:
        one = placement.block_bytes(stage, scenario.block_size)
        return placement.weight_bytes(stage) + num_blocks * one

    most = max(map(used_bytes, range(len(placement.layers))))
    return (most + WORKSPACE_BYTES) / scenario.utilization


def no_room_error(question: PlanQuestion, num_devices: int) -> CapacityError:
    """What it would take where no layout fits: memory per device, or a number of devices."""
    placements = layouts(question.shape, question.device, num_devices)
    scenarios = [question.scenario(one, question.workload) for one in placements]
    needed = min(map(needed_bytes, scenarios)) / GIB
    device, longest = question.device, scenarios[0].longest_tokens
    enough = _enough_devices(question, num_devices)
    found = f"{enough} such devices would do" if enough else f"not even {MOST_DEVICES} would do"
    fix = (
        f"the weights and a request of {longest} tokens need {needed:.1f} GiB on each device, "
        f"use larger ones or more: {found}"
    )
    shown = f"{num_devices} x {device.name} ({device.memory_bytes / GIB:.0f} GiB)"
    return CapacityError("gpu", shown, fix)


def _enough_devices(question: PlanQuestion, too_few: int) -> int | None:
    """The least number of devices on which some layout fits."""
    for num_devices in range(too_few + 1, MOST_DEVICES + 1):
        for ranks in RANKS:
            num_stages, rest = divmod(num_devices, ranks)
            if rest or question.shape.num_heads % ranks or num_stages > question.shape.num_layers:
                continue
            placement = place(question.shape, question.device, num_stages, ranks)
            scenario = question.scenario(placement, question.workload)
            if needed_bytes(scenario) <= question.device.memory_bytes:
                return num_devices
    return None
