"""`tdpipe plan`: the layout and scheduler that a workload runs fastest with on given devices."""

import argparse
import json
import os

from tdpipe.cli.simulation_options import add_simulation_options, find_gpu, find_shape
from tdpipe.cli.text_table import seconds_text, text_table
from tdpipe.core.errors import CapacityError, ConfigError
from tdpipe.cost.hardware_catalogue import GIB
from tdpipe.simulation.layouts import check_num_devices, layout_name
from tdpipe.simulation.plan import DEFAULT_SCHEDULERS, Basis, Plan, PlanQuestion
from tdpipe.simulation.plan_reason import plan_name, reasons
from tdpipe.simulation.plan_search import PlanSearch
from tdpipe.simulation.scenario import SCHEDULER_NAMES, load_workload, schedulers_named

EXAMPLES = """\
examples:
  the best layout of four L20 or fewer:
    tdpipe plan --gpu L20 --num-gpus 4 --model qwen2.5-32b --workload sharegpt
  how many devices are worth their price:
    tdpipe plan --gpu A100-PCIe-80G --num-gpus 1-8 --model llama-3.1-70b --workload azure-conv
  your own requests and model, two schedulers, figures for a program:
    tdpipe plan --gpu H100-SXM --num-gpus 8 --model ./my-model --workload requests.csv \\
        --schedulers adaptive,pp-hybrid --json

A time is simulated, estimated (a simulated sample, scaled by the bounds of sample and workload) or
only a bound: what even the best scheduler could not beat, and slower than the plan chosen.
"""
HEAD = (
    *("layout", "scheduler", "figures", "layers", "tokens/s", "makespan", "of bound", "bubbles"),
    *("all-reduces", "KV tokens"),
)
RANGE_HEAD = (
    *("at most", "used", "layout", "scheduler", "layers"),
    *("tokens/s", "per device", "makespan"),
)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "plan",
        help="find the fastest layout and scheduler for devices, model and workload",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_simulation_options(parser)
    add = parser.add_argument
    add("--num-gpus", required=True, help="devices at most, or a range as 1-8", metavar="N")
    default = ",".join(DEFAULT_SCHEDULERS)
    shown = f"comma-separated, or all: {', '.join(SCHEDULER_NAMES)} (default {default})"
    add("--schedulers", default=default, help=shown, metavar="NAMES")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Search and print; returns the exit status."""
    first, last = device_counts(arguments.num_gpus)
    question = PlanQuestion(
        shape=find_shape(arguments.model),
        device=find_gpu(arguments),
        schedulers=schedulers_named(arguments.schedulers),
        workload=load_workload(arguments.workload, arguments.requests, arguments.seed),
        predictor=arguments.predictor,
        engine_overhead_s=arguments.engine_overhead_ms / 1e3,
    )
    if first == last:
        return _print_plan(arguments, question, last)
    return _print_range(arguments, question, range(first, last + 1))


def num_processes() -> int:
    """Simulations at a time: one for each core that may be used."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_counts(text: str) -> tuple[int, int]:
    """The least and the largest number of devices of "4" or "1-8".

    Raises:
        ConfigError: it is neither, or a number is out of range.
    """
    low, dash, high = text.strip().partition("-")
    if not low.isdecimal() or (dash and not high.isdecimal()):
        raise ConfigError("num_gpus", text, "give a number, or a range such as 1-8")
    first, last = int(low), int(high) if dash else int(low)
    check_num_devices(first)
    check_num_devices(last)
    if first > last:
        raise ConfigError("num_gpus", text, "begin the range with its smaller number")
    return first, last


def _print_plan(arguments: argparse.Namespace, question: PlanQuestion, num_devices: int) -> int:
    from tdpipe.cli.step_progress import StepProgress

    with StepProgress() as progress:
        ranking = PlanSearch(question, progress.step, num_processes()).ranking(num_devices)
    if arguments.json:
        pick, table = _pick_json(arguments, ranking), list(map(_plan_json, ranking))
        print(json.dumps({**pick, "plans": table}, indent=2))
    else:
        print("\n".join(_pick_lines(arguments, question, ranking)))
        print()
        print("\n".join(text_table(HEAD, list(map(_row, ranking)), num_left=4)))
    return 0


def _pick_lines(
    arguments: argparse.Namespace, question: PlanQuestion, ranking: list[Plan]
) -> list[str]:
    best = ranking[0]
    placement, workload = best.scenario.placement, best.scenario.workload
    counts = f"{len(workload.requests)} of {len(question.workload.requests)} requests"
    memory = max(_memory(best), key=lambda stage: stage["weights_gib"] + stage["kv_gib"])
    total = placement.device.memory_bytes / GIB
    return [
        f"plan         {plan_name(best)} on {placement.num_devices} x {placement.device.name}",
        f"model        {arguments.model}, layers per stage {_layers(best)}",
        f"workload     {workload.name}, {counts} simulated",
        f"predicted    {best.tokens_per_s:.0f} tokens/s, {seconds_text(best.makespan_s)}, "
        f"{best.bound.seconds / best.makespan_s:.0%} of the {best.bound.name} bound",
        f"memory       {memory['weights_gib']:.1f} GiB of weights and {memory['kv_gib']:.1f} GiB "
        f"of KV cache on a device of {total:.0f} GiB; {best.scenario.limits().kv_tokens} tokens",
        f"because      {reason_text(ranking)}",
    ]


def reason_text(ranking: list[Plan]) -> str:
    """Why the first plan is ahead of the best one with another layout or scheduler."""
    best = ranking[0]
    other = next((plan for plan in ranking[1:] if plan_name(plan) != plan_name(best)), None)
    if other is None:
        return "nothing else fits"
    if other.basis is Basis.BOUND:
        most = f"could not reach more than {other.tokens_per_s:.0f} tokens/s"
        return f"{plan_name(other)}, the next, {most} under any scheduler"
    found = reasons(best, other) or ["bubbles, cache and batches are about the same"]
    percent = best.tokens_per_s / other.tokens_per_s - 1
    return f"{percent:.1%} faster than {plan_name(other)}: {'; '.join(found)}"


def _print_range(arguments: argparse.Namespace, question: PlanQuestion, counts: range) -> int:
    """The best plan of each number of devices, or what it would take; refuses if none has one."""
    found = _plans_of(question, counts)
    refusals = [one for one in found.values() if isinstance(one, CapacityError)]
    if len(refusals) == len(found):
        raise refusals[-1]
    if arguments.json:
        print(json.dumps({"counts": [_count_json(*pair) for pair in found.items()]}, indent=2))
        return 0
    for refusal in refusals:
        print(f"no plan      {refusal}")
    rows = [_range_row(count, one) for count, one in found.items() if isinstance(one, Plan)]
    print("\n".join(text_table(RANGE_HEAD, rows, num_left=5)))
    return 0


def _plans_of(question: PlanQuestion, counts: range) -> dict[int, Plan | CapacityError]:
    from tdpipe.cli.step_progress import StepProgress

    found: dict[int, Plan | CapacityError] = {}
    with StepProgress() as progress:
        search = PlanSearch(question, progress.step, num_processes())
        for count in counts:
            try:
                found[count] = search.ranking(count, finalists=1)[0]
            except CapacityError as error:
                found[count] = error
    return found


def _range_row(count: int, plan: Plan) -> tuple[str, ...]:
    used = plan.scenario.placement.num_devices
    return (
        f"{count}",
        f"{used}",
        layout_name(plan.scenario.placement),
        plan.scheduler,
        _layers(plan),
        f"{plan.tokens_per_s:.0f}",
        f"{plan.tokens_per_s / used:.0f}",
        seconds_text(plan.makespan_s),
    )


def _count_json(count: int, found: Plan | CapacityError) -> dict[str, object]:
    if isinstance(found, CapacityError):
        return {"num_gpus": count, "error": str(found)}
    return {"num_gpus": count, **_plan_json(found)}


def _row(plan: Plan) -> tuple[str, ...]:
    bounded = plan.basis is Basis.BOUND
    return (
        layout_name(plan.scenario.placement),
        plan.scheduler,
        str(plan.basis),
        _layers(plan),
        f"{'<' if bounded else ''}{plan.tokens_per_s:.0f}",
        f"{'>' if bounded else ''}{seconds_text(plan.makespan_s)}",
        "" if bounded else f"{plan.bound.seconds / plan.makespan_s:.1%}",
        "" if bounded else f"{plan.bubble_share:.1%}",
        "" if bounded else f"{plan.communication_share:.1%}",
        f"{plan.scenario.limits().kv_tokens}",
    )


def _layers(plan: Plan) -> str:
    """Layers of each stage, equal neighbours as 3x16."""
    groups: list[list[int]] = []
    for count in plan.scenario.placement.layers:
        if groups and groups[-1][1] == count:
            groups[-1][0] += 1
        else:
            groups.append([1, count])
    return ",".join(f"{many}x{count}" if many > 1 else f"{count}" for many, count in groups)


def _memory(plan: Plan) -> list[dict[str, float]]:
    """GiB of weights and of KV cache on each device of a stage."""
    scenario, placement = plan.scenario, plan.scenario.placement
    limits = scenario.limits()
    return [
        {
            "weights_gib": placement.weight_bytes(stage) / GIB,
            "kv_gib": limits.num_blocks * placement.block_bytes(stage, limits.block_size) / GIB,
        }
        for stage in range(len(placement.layers))
    ]


def _pick_json(arguments: argparse.Namespace, ranking: list[Plan]) -> dict[str, object]:
    return {
        "model": arguments.model,
        "seed": arguments.seed,
        "plan": plan_name(ranking[0]),
        "reason": reason_text(ranking),
        "best": _plan_json(ranking[0]),
    }


def _plan_json(plan: Plan) -> dict[str, object]:
    return {
        "layout": layout_name(plan.scenario.placement),
        "scheduler": plan.scheduler,
        "basis": str(plan.basis),
        "tokens_per_s": plan.tokens_per_s,
        "makespan_s": plan.makespan_s,
        "bound_s": plan.bound.seconds,
        "bound": plan.bound.name,
        "bubble_share": None if plan.run is None else plan.bubble_share,
        "communication_share": None if plan.run is None else plan.communication_share,
        "memory_per_device": _memory(plan),
        "settings": plan.scenario.settings(),
    }
