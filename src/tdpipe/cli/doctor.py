"""`tdpipe doctor`: what this machine has, and whether its stages can talk to each other."""

import argparse
import os
import platform
import shutil
from pathlib import Path

import tdpipe


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("doctor", help="check this machine and the links between stages")
    parser.add_argument("--ranks", type=int, default=2, help="stages to link (default 2)")
    parser.add_argument("--time-out", type=float, default=30.0, help="seconds a check may take")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the report; 0 when every link works, else 1."""
    from tdpipe.core.errors import ConfigError
    from tdpipe.execution.link_check import check_links

    if not 2 <= arguments.ranks <= 64:
        raise ConfigError("ranks", arguments.ranks, "use 2 to 64")
    if arguments.time_out <= 0:
        raise ConfigError("time-out", arguments.time_out, "use more than 0 seconds")
    for name, value in machine_facts().items():
        print(f"{name:<12} {value}")
    report = check_links(arguments.ranks, arguments.time_out, arguments.device)
    print(f"links        {report.backend}, {arguments.ranks} ranks, each to each")
    for link in report.links:
        pair = f"  {link.source} -> {link.target}"
        if link.error is None:
            speed = f"{link.bytes_per_s / 1e9:.2f} GB/s, {link.latency_s * 1e6:.0f} us"
            print(f"{pair:<12} ok      {speed}")
        else:
            print(f"{pair:<12} failed  {link.error}")
    if report.all_reduce is not None:
        rate_gb, step_us = report.all_reduce.bytes_per_s / 1e9, report.all_reduce.latency_s * 1e6
        print(f"  sum of all ok      {rate_gb:.2f} GB/s, {step_us:.0f} us a step")
    elif report.all_work:
        print(f"  sum of all failed  no answer within {arguments.time_out:.0f} s")
    if report.all_work and report.all_reduce is not None:
        return 0
    print("what to change:")
    for advice in report.advice():
        print(f"  - {advice}")
    return 1


def machine_facts() -> dict[str, str]:
    """What the machine and the installation offer, as lines to print."""
    import psutil
    import torch

    from tdpipe.core.errors import ConfigError
    from tdpipe.execution.models.model_source import resolve_model
    from tdpipe.frontend.host_processor import cpu_name, cpu_vectors

    memory = psutil.virtual_memory()
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").exists() else 0
    try:
        embedded = str(resolve_model("smollm2-135m-instruct").folder)
    except ConfigError as error:
        embedded = f"absent ({error.fix})"
    backends = [
        name
        for name, there in (
            ("gloo", torch.distributed.is_gloo_available()),
            ("nccl", torch.distributed.is_nccl_available()),
        )
        if there
    ]
    facts = {
        "tdpipe": tdpipe.__version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.release()}",
        "cpu": f"{cpu_name()} ({cpu_vectors()}), {len(os.sched_getaffinity(0))} cores usable",
        "memory": f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free, "
        f"{shared / 2**30:.1f} GiB shared",
        "torch": f"{torch.__version__}, CPU {torch.backends.cpu.get_cpu_capability()}",
        "backends": ", ".join(backends) or "none",
        "model": embedded,
    }
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        facts[f"cuda:{index}"] = f"{card.name}, {card.total_memory / 2**30:.1f} GiB"
    return facts
