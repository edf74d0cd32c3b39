"""Pipeline against tensor parallelism on two cores, over links of different speed.

    python benchmarks/slow_link.py [--requests 50] [--rounds 2] [--links memory,sockets,1gbit,ray]

memory   tensor-parallel ranks sum through shared memory; stages hand on through local sockets
sockets  both through local sockets (gloo)
1gbit    each process in a network namespace of its own, joined by a link that tc holds to 1 Gbit/s
         each way, as two machines on Ethernet would be; needs root
ray      the same link between two nodes of a Ray cluster, on which the pipeline's stages run
         (the ranks of a stage are never on two nodes); the engine is on the first, and its messages
         to the second cross the link, too

Every layout runs the same requests over every link, in turn, round after round. Times of a sum over
the ranks and of handing on hidden states, alone, are measured over each link too. Writes
benchmarks/results/slow_link.json.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from ray_pair import ray_nodes, run_inside
from result_record import ROOT, write_result
from tdpipe import LLM, SamplingParams
from tdpipe.execution.stage_worker import loopback_interface
from workload_lognormal import WorkItem, make_workload

MODEL = "smollm2-135m-instruct"
LAYOUTS = {
    "PP2": {"pipeline_parallel_size": 2, "scheduler": "adaptive"},
    "TP2": {"tensor_parallel_size": 2, "scheduler": "tp-hybrid"},
}
LINKS = ("memory", "sockets", "1gbit", "ray")
# Rows of hidden states: a few decodes, many, a prompt.
ROWS = (1, 64, 256, 2048)
# Shell in which a process of rank $1 goes to its namespace; the counter file says which is next.
WRAPPER = """#!/bin/sh
rank=$(cat {counter}); echo $((1 - rank)) > {counter}
exec ip netns exec {name}$rank {python} "$@"
"""


@contextmanager
def shaped_pair() -> Iterator[tuple[str, str]]:
    """Two network namespaces joined by a slow link, by name."""
    pair = (f"tdpipe{os.getpid()}-0", f"tdpipe{os.getpid()}-1")
    try:
        for name in pair:
            ip("netns", "add", name)
        ip("link", "add", "link0", "netns", pair[0], "type", "veth", "peer", "name", "link0",
           "netns", pair[1])  # fmt: skip
        for number, name in enumerate(pair, 1):
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "link0")
            for device in ("lo", "link0"):
                ip("-n", name, "link", "set", device, "up")
            subprocess.run(
                ["tc", "-n", name, "qdisc", "add", "dev", "link0", "root", "tbf", "rate", "1gbit",
                 "burst", "128kb", "latency", "20ms"], check=True,
            )  # fmt: skip
        yield pair
    finally:
        for name in pair:
            subprocess.run(["ip", "netns", "del", name], check=False)


@contextmanager
def shaped_link(folder: Path) -> Iterator[None]:
    """Processes that are started inside go in turn to two namespaces joined by a slow link."""
    python, wrapper, counter = sys.executable, folder / "python", folder / "next"
    counter.write_text("0")
    with shaped_pair() as pair:
        name = pair[0].removesuffix("0")
        wrapper.write_text(WRAPPER.format(counter=counter, name=name, python=python))
        wrapper.chmod(0o700)
        sys.executable = str(wrapper)
        try:
            yield
        finally:
            sys.executable = python


def ip(*arguments: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *arguments], check=True)


@contextmanager
def link(name: str) -> Iterator[None]:
    """The processes started inside talk over this link."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GLOO_SOCKET_IFNAME"] = "link0" if name == "1gbit" else loopback_interface()
        os.environ["TDPIPE_RANK_SOCKETS"] = "" if name == "memory" else "1"
        try:
            if name != "1gbit":
                yield
                return
            with shaped_link(Path(folder)):
                yield
        finally:
            del os.environ["GLOO_SOCKET_IFNAME"], os.environ["TDPIPE_RANK_SOCKETS"]


def run(layout: str, workload: list[WorkItem], **settings: Any) -> dict[str, Any]:
    """One run over the present link, with these settings beside the layout's."""
    params = [
        SamplingParams(temperature=0.0, max_tokens=item.output_tokens, ignore_eos=True)
        for item in workload
    ]
    with LLM(MODEL, kv_cache_memory="1GiB", **{**LAYOUTS[layout], **settings}) as llm:
        llm.generate([[5, 6, 7]] * 4, SamplingParams(max_tokens=8))  # kernels loaded by then
        llm.generate([item.prompt for item in workload], params)
        summary = llm.summary()
    return {
        "wall_s": summary.wall_s,
        "output_tokens_per_s": summary.output_tokens_per_s,
        "collective_share": summary.collective_share,
        "busy_shares": list(summary.stage_busy_shares),
    }


def run_on_ray(options: argparse.Namespace) -> dict[str, Any]:
    """One run of the pipeline on a cluster made for it."""
    with shaped_pair() as pair, ray_nodes(pair):
        return run_inside(pair[0], options.requests, options.scale)


def alone() -> dict[str, list[float]]:
    """Seconds of a sum over two ranks, of handing on, and of a sum in two steps, for all ROWS."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(Path(__file__).with_name("link_times.py")), folder]
        ranks = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE) for rank in (0, 1)]
        try:
            lines = ranks[0].communicate(timeout=120)[0].decode().split()
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
    seconds = [float(one) for one in lines]
    kinds = ("sum_s", "send_s", "scatter_gather_s")
    return {kind: seconds[i * len(ROWS) : (i + 1) * len(ROWS)] for i, kind in enumerate(kinds)}


def table(links: dict[str, Any]) -> str:
    """A line for each link."""
    lines = [
        "| link | sum of 256 rows alone | by gloo in two steps | PP2 adaptive, tokens/s "
        "| TP2 tp-hybrid | all-reduces | PP2 / TP2 |",
        "|---" * 7 + "|",
    ]
    for name, found in links.items():
        speeds = {
            layout: median(one["output_tokens_per_s"] for one in runs)
            for layout, runs in found["runs"].items()
            if runs
        }
        if name == "ray":
            lines.append(f"| 1gbit, by Ray |  |  | {speeds['PP2']:.1f} |  |  |  |")
            continue
        share = median(one["collective_share"] for one in found["runs"]["TP2"])
        sums = [
            f"{found['alone'][kind][ROWS.index(256)] * 1e3:.2f} ms"
            for kind in ("sum_s", "scatter_gather_s")
        ]
        cells = [name, *sums, f"{speeds['PP2']:.1f}", f"{speeds['TP2']:.1f}", f"{share:.0%}"]
        lines.append(f"| {' | '.join(cells)} | {speeds['PP2'] / speeds['TP2']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """All rounds, one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--links", default=",".join(LINKS))
    parser.add_argument("--smoke", action="store_true", help="few and short requests, one round")
    parser.add_argument("--folder", type=Path, help="where to write, instead of results/")
    options = parser.parse_args()
    if options.smoke:
        options.requests, options.rounds = 4, 1
    options.scale = 0.1 if options.smoke else 1.0
    workload = make_workload(options.requests, seed=0, scale=options.scale)
    names = options.links.split(",")
    links: dict[str, Any] = {name: {"runs": {one: [] for one in LAYOUTS}} for name in names}
    for number in range(options.rounds):
        for name in names:
            if name == "ray":
                found = run_on_ray(options)
                links[name]["runs"]["PP2"].append(found)
                print(f"ray PP2: {found['output_tokens_per_s']:.1f} tokens/s")
                continue
            with link(name):
                if number == 0:
                    links[name]["alone"] = alone()
                for layout in LAYOUTS:
                    started_s = time.perf_counter()
                    found = run(layout, workload)
                    links[name]["runs"][layout].append(found)
                    took_s = time.perf_counter() - started_s
                    speed = found["output_tokens_per_s"]
                    print(f"{name} {layout}: {speed:.1f} tokens/s, {took_s:.0f} s in all")
    settings = {
        "requests": options.requests, "rounds": options.rounds, "smoke": options.smoke,
        "rows": ROWS, "layouts": LAYOUTS,
        "prompt_tokens": sum(len(item.prompt) for item in workload),
        "output_tokens": sum(item.output_tokens for item in workload),
    }  # fmt: skip
    figures = {"links": links, "table": table(links)}
    path = write_result("slow_link", settings, figures, options.folder)
    print(figures["table"])
    print(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


if __name__ == "__main__":
    main()
