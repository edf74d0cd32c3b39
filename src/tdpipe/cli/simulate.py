"""`tdpipe simulate`: a workload under several schedulers, on devices that need not be there."""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from tdpipe.cli.output_files import check_can_write, make_folder
from tdpipe.cli.simulation_options import add_simulation_options, find_gpu, find_shape
from tdpipe.cli.text_table import seconds_text, text_table
from tdpipe.core.errors import CapacityError, ConfigError
from tdpipe.core.tensor_shard import check_tensor_parallel
from tdpipe.cost.placement import place
from tdpipe.policies.scheduler_registry import TENSOR_PARALLEL
from tdpipe.reporting.run_record import RunRecord
from tdpipe.reporting.run_summary import RunBound, RunTotals, summarize
from tdpipe.simulation.layouts import check_num_devices, layout_name
from tdpipe.simulation.lower_bound import LowerBound
from tdpipe.simulation.scenario import (
    SCHEDULER_NAMES,
    Scenario,
    load_workload,
    schedulers_named,
)
from tdpipe.simulation.simulated_run import SimulatedRun

DEFAULT_SCHEDULERS = "adaptive,td-pipe,pp-hybrid"
EXAMPLES = """\
examples:
  four L20 as a pipeline, three schedulers:
    tdpipe simulate --gpu L20 --num-gpus 4 --model qwen2.5-32b --workload sharegpt
  every scheduler, with a length predictor that is right, and figures to print:
    tdpipe simulate --gpu A100-PCIe-80G --num-gpus 4 --model llama-2-70b --workload azure-conv \\
        --requests 2000 --schedulers all --predictor oracle --plots plots
  your own requests and model, two stages of two devices each, one run as a Perfetto trace:
    tdpipe simulate --gpu H100-SXM --num-gpus 4 --tensor-parallel-size 2 --model ./my-model \\
        --workload requests.csv --schedulers adaptive --timeline run.json

"bound" is the least time that any scheduler could take: for computing (compute), for the memory
that the KV cache offers (memory) or for the steps of the longest request (chain). With tp-separate
and tp-hybrid all devices share one stage.
"""
HEAD = (
    *("scheduler", "layout", "tokens/s", "makespan", "of bound", "bound", "least busy", "bubbles"),
    *("preempted", "recomputed", "peak KV"),
)


@dataclass(frozen=True, slots=True)
class Result:
    """One scheduler's run with the bound of its layout."""

    scheduler: str
    scenario: Scenario
    bound: LowerBound
    run: SimulatedRun

    @property
    def layout(self) -> str:
        return layout_name(self.scenario.placement)

    @property
    def bound_share(self) -> float:
        """The bound as a share of the makespan: 1 is the best there can be."""
        return self.bound.seconds / self.run.makespan_s

    @property
    def bubble_share(self) -> float:
        """Idle share of the time of all stages."""
        return 1.0 - sum(self.run.busy_shares) / len(self.run.busy_shares)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "simulate",
        help="compare schedulers on devices that need not be there",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_simulation_options(parser)
    add = parser.add_argument
    add("--num-gpus", type=int, help="devices (default: stages x ranks)", metavar="N")
    add("--tensor-parallel-size", type=int, default=1, help="devices a stage", metavar="T")
    add(
        "-p",
        "--pipeline-parallel-size",
        type=int,
        help="stages (default: devices / ranks)",
        metavar="P",
    )
    shown = f"comma-separated, or all: {', '.join(SCHEDULER_NAMES)} (default {DEFAULT_SCHEDULERS})"
    add("--schedulers", default=DEFAULT_SCHEDULERS, help=shown, metavar="NAMES")
    timeline = "write a Chrome/Perfetto trace; of several schedulers, one file each: FILE-NAME"
    add("--timeline", help=timeline, metavar="FILE")
    add("--plots", help="write figures (PNG and SVG) here; needs matplotlib", metavar="DIR")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Simulate and print; returns the exit status."""
    scenarios = _scenarios(arguments)
    if arguments.timeline:
        check_can_write("timeline", arguments.timeline)
    if arguments.plots:
        from tdpipe.cli.plots import check_plots

        check_plots()
        make_folder("plots", Path(arguments.plots))
    results = _results(scenarios, keep_trace=bool(arguments.timeline or arguments.plots))
    if arguments.json:
        print(json.dumps(_as_json(arguments, results), indent=2))
    else:
        print("\n".join(_lines(arguments, results)))
    human = sys.stderr if arguments.json else sys.stdout
    for path in _written(arguments, results):
        print(f"written      {path}", file=human)
    return 0


def _scenarios(arguments: argparse.Namespace) -> list[tuple[str, Scenario]]:
    """Each scheduler with the scenario that it runs."""
    device, shape = find_gpu(arguments), find_shape(arguments.model)
    names = schedulers_named(arguments.schedulers)
    num_stages, ranks = _layout(arguments)
    check_tensor_parallel(shape, ranks)
    placement = place(shape, device, num_stages, ranks)
    workload = load_workload(arguments.workload, arguments.requests, arguments.seed)
    overhead_s = arguments.engine_overhead_ms / 1e3
    base = Scenario(placement, workload, arguments.predictor, engine_overhead_s=overhead_s)
    chosen = []
    for name in names:
        try:
            scenario = base.for_scheduler(name)
            scenario.limits()
        except (ConfigError, CapacityError):
            if arguments.schedulers == "all" and name in TENSOR_PARALLEL:
                continue  # asked for what there is
            raise
        chosen.append((name, scenario))
    return chosen


def _layout(arguments: argparse.Namespace) -> tuple[int, int]:
    """Stages and ranks, from the two of the three numbers that are given."""
    ranks, num_stages = arguments.tensor_parallel_size, arguments.pipeline_parallel_size
    if ranks < 1:
        raise ConfigError("tensor_parallel_size", ranks, "use 1 or more")
    if num_stages is not None and num_stages < 1:
        raise ConfigError("pipeline_parallel_size", num_stages, "use 1 or more")
    num_gpus = arguments.num_gpus
    if num_gpus is None:
        num_gpus = ranks * (num_stages or 1)
    check_num_devices(num_gpus)
    num_stages = num_stages or max(1, num_gpus // ranks)
    if num_stages * ranks != num_gpus:
        fix = f"{num_stages} stages of {ranks} devices are {num_stages * ranks}: change one of them"
        raise ConfigError("num_gpus", num_gpus, fix)
    return num_stages, ranks


def _results(scenarios: list[tuple[str, Scenario]], keep_trace: bool) -> list[Result]:
    from tdpipe.cli.step_progress import StepProgress

    results = []
    with StepProgress(len(scenarios)) as progress:
        for name, scenario in scenarios:
            progress.step(f"{name}, {len(scenario.workload.requests)} requests")
            run = scenario.run(name, keep_trace)
            results.append(Result(name, scenario, scenario.bound(), run))
    return results


def _lines(arguments: argparse.Namespace, results: list[Result]) -> list[str]:
    """The table, with what was simulated above it."""
    first = results[0].scenario
    workload, layers = first.workload, ",".join(map(str, first.placement.layers))
    devices = f"{first.placement.num_devices} x {first.placement.device.name}"
    tokens = f"{workload.prompt_tokens} prompt and {workload.output_tokens} output tokens"
    lines = [
        f"{arguments.model} on {devices}, {layout_name(first.placement)}, layers {layers}",
        f"{workload.name}: {len(workload.requests)} requests, {tokens}",
        f"KV cache     {first.limits().kv_tokens} tokens, predictor {first.predictor}",
    ]
    if workload.dropped_requests:
        lines.append(f"left out     {workload.dropped_requests} requests without tokens")
    return [*lines, "", *text_table(HEAD, list(map(_row, results)), num_left=2)]


def _row(result: Result) -> tuple[str, ...]:
    run = result.run
    return (
        result.scheduler,
        result.layout,
        f"{run.tokens_per_s:.0f}",
        seconds_text(run.makespan_s),
        f"{result.bound_share:.1%}",
        result.bound.name,
        f"{min(run.busy_shares):.1%}",
        f"{result.bubble_share:.1%}",
        f"{run.num_preemptions}",
        f"{run.recomputed_share:.1%}",
        f"{run.peak_kv_share:.1%}",
    )


def _as_json(arguments: argparse.Namespace, results: list[Result]) -> dict[str, object]:
    return {
        "model": arguments.model,
        "seed": arguments.seed,
        "runs": [
            {
                "scheduler": result.scheduler,
                "layout": result.layout,
                "settings": result.scenario.settings(),
                "tokens_per_s": result.run.tokens_per_s,
                "makespan_s": result.run.makespan_s,
                "bound_s": result.bound.seconds,
                "bound": result.bound.name,
                "bound_share": result.bound_share,
                "busy_shares": list(result.run.busy_shares),
                "bubble_share": result.bubble_share,
                "num_batches": result.run.num_batches,
                "num_preemptions": result.run.num_preemptions,
                "prefilled_tokens": result.run.prefilled_tokens,
                "recomputed_share": result.run.recomputed_share,
                "peak_kv_share": result.run.peak_kv_share,
            }
            for result in results
        ],
    }


def _written(arguments: argparse.Namespace, results: list[Result]) -> list[Path]:
    """Write the timelines and figures that were asked for."""
    paths = []
    if arguments.timeline:
        from tdpipe.reporting.timeline_file import write_timeline

        for result in results:
            path = _timeline_path(arguments.timeline, result.scheduler, len(results))
            write_timeline(_record(result), path)
            paths.append(path)
    if arguments.plots:
        from tdpipe.cli.plots import PlottedRun, write_plots

        plotted = [PlottedRun(_plot_name(r), r.run, r.bound) for r in results]
        paths += write_plots(plotted, Path(arguments.plots))
    return paths


def _record(result: Result) -> RunRecord:
    """The run as reports see it; its stage times are always those of the catalogue."""
    run, limits = result.run, result.scenario.limits()
    assert run.trace is not None
    totals = RunTotals(
        scheduler=result.scheduler,
        partition=result.scenario.placement.layers,
        num_requests=len(result.scenario.workload.requests),
        num_failed=0,
        prompt_tokens=run.prompt_tokens,
        output_tokens=run.output_tokens,
        num_preemptions=run.num_preemptions,
        peak_kv_blocks=round(run.peak_kv_share * limits.num_blocks),
        wall_s=run.makespan_s,
        bound=RunBound(result.bound.seconds, result.bound.name, is_estimated=True),
    )
    return RunRecord(run.trace, summarize(run.trace, totals))


def _timeline_path(given: str, scheduler: str, num_results: int) -> Path:
    path = Path(given)
    return path if num_results == 1 else path.with_name(f"{path.stem}-{scheduler}{path.suffix}")


def _plot_name(result: Result) -> str:
    return f"{result.scheduler}\n{result.layout}"
