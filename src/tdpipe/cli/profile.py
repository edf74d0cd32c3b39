"""`tdpipe profile`: measures what each stage takes, and keeps it."""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tdpipe.cli.engine_options import (
    DEFAULT_MODEL,
    add_kv_cache_dtype,
    add_load_format,
    add_places,
    add_stage_devices,
)
from tdpipe.config.engine_config import DEVICES, DTYPES, QUANTIZATIONS

if TYPE_CHECKING:
    from tdpipe.config.engine_config import EngineConfig
    from tdpipe.config.profile_file import ProfileKey
    from tdpipe.cost.cost_model import BatchLoad
    from tdpipe.cost.profiled_cost import ProfiledCost
    from tdpipe.execution.stage_profiler import ProfileGrid

# Ranks that do not answer by then are ended.
LINKS_LIMIT_S = 120.0
EXAMPLE = """\
example, two stages with 16 and 14 layers:
  tdpipe profile --model smollm2-135m-instruct -p 2 --partition 16,14

The stages must have the machine to themselves while they are measured: less than a minute for a
model of 135 M parameters on two cores. The profile is kept in the cache folder ($TDPIPE_CACHE), and
in FILE if --output names one.

the links between the ranks of 2 stages of 2, for `tdpipe plan --links`; no model is needed:
  tdpipe profile -p 2 -t 2 --links links.json
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "profile",
        help="measure what each stage takes",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, help=f"default {DEFAULT_MODEL}, embedded")
    parser.add_argument(
        "-p", "--pipeline-parallel-size", type=int, default=1, help="stages", metavar="P"
    )
    parser.add_argument(
        "-t", "--tensor-parallel-size", type=int, default=1, help="ranks a stage", metavar="T"
    )
    parser.add_argument("--partition", help="layers per stage, such as 16,14")
    parser.add_argument("--dtype", default="auto", help=f"one of {', '.join(DTYPES)}")
    add_kv_cache_dtype(parser)
    parser.add_argument("--quantization", help=f"of the weights: {', '.join(QUANTIZATIONS)}")
    parser.add_argument("--device", default="auto", help=f"one of {', '.join(DEVICES)}")
    add_stage_devices(parser)
    add_load_format(parser)
    parser.add_argument("--kv-cache-memory", help="per process, such as 512MiB", metavar="SIZE")
    parser.add_argument("--threads-per-stage", type=int, default=1, help="CPU cores a process")
    parser.add_argument("--quick", action="store_true", help="fewer points, in seconds")
    parser.add_argument(
        "--links", help="measure what joins the ranks instead, and write it here", metavar="FILE"
    )
    add_places(parser)
    parser.add_argument("--output", help="write the profile here as well", metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print the profile as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, keep; returns the exit status."""
    if arguments.links:
        return _measure_links(arguments)
    from tdpipe.config.engine_config import EngineConfig
    from tdpipe.config.profile_file import profile_json, save_profile
    from tdpipe.core.errors import ConfigError
    from tdpipe.execution.stage_profiler import FULL_GRID, QUICK_GRID
    from tdpipe.frontend.stage_profile_cache import store_profile

    config = EngineConfig(
        model=arguments.model,
        pipeline_parallel_size=arguments.pipeline_parallel_size,
        tensor_parallel_size=arguments.tensor_parallel_size,
        partition=arguments.partition,
        dtype=arguments.dtype,
        kv_cache_dtype=arguments.kv_cache_dtype or "auto",
        device=arguments.device,
        stage_devices=arguments.stage_devices,
        load_format=arguments.load_format or "auto",
        quantization=arguments.quantization,
        kv_cache_memory=arguments.kv_cache_memory,
        threads_per_stage=arguments.threads_per_stage,
        distributed_executor_backend=arguments.distributed_executor_backend or "mp",
        ray_address=arguments.ray_address,
        control_port=arguments.control_port or 0,
    )
    if arguments.output and Path(arguments.output).is_dir():
        raise ConfigError("output", arguments.output, "it is a folder; name a file")
    started_s = time.monotonic()
    key, cost = measured(config, QUICK_GRID if arguments.quick else FULL_GRID)
    took_s = time.monotonic() - started_s
    # A coarse profile must not stand in for a full one.
    kept = [] if arguments.quick else [store_profile(key, cost)]
    if arguments.output:
        save_profile(Path(arguments.output), key, cost)
        kept.append(Path(arguments.output))
    human = sys.stderr if arguments.json else sys.stdout
    if arguments.json:
        print(profile_json(key, cost))
    else:
        print("\n".join(table_lines(key, cost)))
    print(f"measured in {took_s:.0f} s, loading included", file=human)
    for path in kept:
        print(f"profile      {path}", file=human)
    return 0


def _measure_links(arguments: argparse.Namespace) -> int:
    from tdpipe.config.links_file import save_links
    from tdpipe.core.errors import ConfigError
    from tdpipe.cost.measured_links import MeasuredLinks, PairTimes
    from tdpipe.execution.link_check import check_links
    from tdpipe.execution.ray_cluster import RayCluster
    from tdpipe.execution.ray_links import check_links_on_ray

    num_ranks = arguments.pipeline_parallel_size * arguments.tensor_parallel_size
    if num_ranks < 2:
        raise ConfigError("ranks", num_ranks, "one rank has no links: set -p or -t")
    if arguments.distributed_executor_backend == "ray":
        layout = arguments.pipeline_parallel_size, arguments.tensor_parallel_size
        cluster = RayCluster(arguments.ray_address)
        try:
            report = check_links_on_ray(cluster, *layout, LINKS_LIMIT_S, arguments.device)
        finally:
            cluster.close()
    else:
        report = check_links(num_ranks, LINKS_LIMIT_S, arguments.device)
    if not report.all_work or report.all_reduce is None:
        raise ConfigError("links", arguments.links, "not all of them work: see tdpipe doctor")
    links = MeasuredLinks(
        backend=report.backend,
        num_ranks=num_ranks,
        pairs=tuple(
            PairTimes(one.source, one.target, one.bytes_per_s, one.latency_s)
            for one in report.links
        ),
        all_reduce_latency_s=report.all_reduce.latency_s,
        all_reduce_bytes_per_s=report.all_reduce.bytes_per_s,
    )
    save_links(Path(arguments.links), links)
    rate = min(pair.bytes_per_s for pair in links.pairs)
    wait_us = 1e6 * max(pair.latency_s for pair in links.pairs)
    step_us = 1e6 * links.all_reduce_latency_s
    print(f"links        {links.backend}, {num_ranks} ranks, each to each; the slowest:")
    print(f"  send       {wait_us:.0f} us + {rate / 1e9:.2f} GB/s")
    print(f"  all-reduce {step_us:.0f} us a step + {links.all_reduce_bytes_per_s / 1e9:.2f} GB/s")
    return 0


def measured(config: "EngineConfig", grid: "ProfileGrid") -> "tuple[ProfileKey, ProfiledCost]":
    """Start the stages, measure them, end them."""
    from tdpipe.execution.models.model_source import resolve_model
    from tdpipe.execution.stage_profiler import profile_stages
    from tdpipe.frontend.pipeline_setup import resolve_setup, setup_key

    source = resolve_model(config.model, config.load_format)
    setup = resolve_setup(config, source)
    key = setup_key(config, source, setup.dtype, setup.device, setup.layers)
    executor = setup.executor(source.folder)
    try:
        return key, profile_stages(executor, setup.allocate(executor), setup.layers, grid)
    finally:
        executor.close()


def table_lines(key: "ProfileKey", cost: "ProfiledCost") -> list[str]:
    """The profile for people: milliseconds of each stage for a few batches, and the rates."""
    stages = range(cost.num_stages)
    head = "".join(f"{f'stage {stage}':>10}" for stage in stages)
    lines = [
        f"{key.model}, {key.dtype} on {key.machine}",
        f"{'layers':<36}" + "".join(f"{count:>10}" for count in cost.layers),
        f"{'milliseconds of a batch':<36}{head}",
    ]
    for name, load in _shown_loads():
        times = "".join(f"{cost.stage_time_s(stage, load) * 1e3:>10.1f}" for stage in stages)
        lines.append(f"  {name:<34}{times}")
    for name, field, unit_s in (
        ("ns per prefill attention pair", "pair_s", 1e-9),
        ("us per cached token read", "kv_token_s", 1e-6),
        ("ms for the projection", "projection_s", 1e-3),
        ("ms per sampled row", "row_s", 1e-3),
    ):
        rates = "".join(f"{getattr(stage, field) / unit_s:>10.3f}" for stage in cost.stages)
        lines.append(f"{name:<36}{rates}")
    link = f"{cost.link_latency_s * 1e6:.0f} us + {cost.link_token_s * 1e6:.3f} us per token"
    return [
        *lines,
        f"link         {link}",
        f"engine       {cost.engine_s * 1e6:.0f} us from a batch's end to the next one's start",
    ]


def _shown_loads() -> "list[tuple[str, BatchLoad]]":
    from tdpipe.cost.cost_model import decode_load, prefill_load

    prefills = [(f"prefill of {n} tokens", prefill_load(0, n)) for n in (16, 128, 512, 1024)]
    decodes = [
        (f"decode of {n}, 256 cached tokens each", decode_load(n, 256 * n))
        for n in (1, 16, 64, 256)
    ]
    return prefills + decodes
