"""Large models on one card: kernels, a full workload, and several stages that share the card.

    python benchmarks/cuda.py [--parts kernels,workload,four-stages] [--folder OUT]

kernels      Llama-2-13B and Qwen2.5-32B shapes, random bf16 weights: decode and prefill steps
             over batch and context against the measured copy bandwidth and matrix rate
             (cuda_kernels.json)
workload     the 13B model as one stage, 1000 requests of lengths like ShareGPT's, real, and
             simulated with the measured stage times (cuda_workload.json)
four-stages  the 13B model as four stages on the card, each held to a quarter of its
             multiprocessors by MPS where there is one, hidden states through host memory as over
             PCIe; every scheduler, real and simulated (cuda_four_stages.json)

Each part is a process of its own and ends before --limit-s, leaving out what there is no time for.
Results go to benchmarks/results.
"""

import argparse
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

from multi_process_service import card_in_parts
from random_models import RANDOM_MODELS
from tdpipe.policies.scheduler_registry import SCHEDULERS, TENSOR_PARALLEL

PARTS = ("kernels", "workload", "four-stages")
# Adaptive against one-stage batching as vLLM does it.
WORKLOAD_SCHEDULERS = "adaptive,td-pipe,tp-hybrid"


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="of the three, comma-separated")
    parser.add_argument("--models", default="llama-2-13b,qwen2.5-32b", help="of kernels")
    parser.add_argument("--run-model", default="llama-2-13b", help="of the two other parts")
    parser.add_argument("--workload-requests", type=int, default=1000)
    parser.add_argument("--workload-schedulers", default=WORKLOAD_SCHEDULERS)
    parser.add_argument("--stages", type=int, default=4, help="on the one card")
    parser.add_argument("--stage-requests", type=int, default=300)
    parser.add_argument("--schedulers", default=",".join(SCHEDULERS), help="of four-stages")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--no-mps", action="store_true", help="stages take turns on the card")
    parser.add_argument("--limit-s", type=float, default=480, help="of a part, to begin a run in")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a tiny model on CPU")
    parser.add_argument("--folder", type=Path, help="where to write, instead of results/")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.smoke:
        options.device, options.models, options.run_model = "cpu", "tiny", "tiny"
        options.workload_requests = options.stage_requests = 12
        options.workload_schedulers, options.schedulers = "adaptive", "adaptive,td-pipe"
    for name in ("parts", "models", "schedulers", "workload_schedulers"):
        setattr(options, name, getattr(options, name).split(","))
    schedulers = (*SCHEDULERS, *TENSOR_PARALLEL)
    for given, known in (
        (options.parts, PARTS),
        ([*options.models, options.run_model], RANDOM_MODELS),
        ([*options.schedulers, *options.workload_schedulers], schedulers),
    ):
        # Now, not after minutes on the card.
        unknown = [one for one in given if one not in known]
        if unknown:
            parser.error(f"{unknown[0]!r} is none of {', '.join(known)}")
    return options


def run_part(part: str, options: argparse.Namespace) -> None:
    """Measure one part in this process."""
    if part == "kernels":
        from cuda_kernels import run_kernels as run
    elif part == "workload":
        from cuda_runs import run_workload as run
    else:
        from cuda_runs import run_stages as run
    print(run(options))


def start_part(part: str, options: argparse.Namespace, arguments: list[str]) -> int:
    """Measure one part in a process that leaves the card's memory to the next; its exit status."""
    on_card = options.device.startswith("cuda") and not options.no_mps
    shared = part == "four-stages" and on_card
    command = [sys.executable, __file__, *arguments, "--parts", part, "--here"]
    with card_in_parts(options.stages) if shared else nullcontext() as environment:
        done = subprocess.run(command, env=environment or os.environ, check=False)
    return done.returncode


def main() -> int:
    """All parts in turn; the status of the first that fails."""
    options = options_of()
    # Asked to end: what was started ends too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.here:
        run_part(options.parts[0], options)
        return 0
    statuses = [start_part(part, options, sys.argv[1:]) for part in options.parts]
    return next((status for status in statuses if status), 0)


if __name__ == "__main__":
    sys.exit(main())
