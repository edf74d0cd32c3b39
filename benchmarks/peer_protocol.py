"""How a contender's process talks: it says it is ready, then runs the workload once per line.

A contender is loaded once and runs several rounds, so that rounds can alternate. Lines on standard
output that do not begin with MARK are the contender's own and are ignored.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from workload_lognormal import WorkItem, make_workload

MARK = "@peer "


def say(message: dict[str, Any]) -> None:
    """Send one message to the parent."""
    print(MARK + json.dumps(message), flush=True)


def serve(
    start: Callable[[], Callable[[list[WorkItem]], dict[str, Any]]], arguments: list[str]
) -> None:
    """Load with `start`, warm up, then run the workload for every line "run" on standard input.

    The function that `start` returns runs a workload and returns figures of its own; it must
    check that every request gave exactly its output tokens. `arguments` are the workload's
    number of requests, seed and scale.
    """
    num_requests, seed, scale = int(arguments[0]), int(arguments[1]), float(arguments[2])
    run = start()
    workload = make_workload(num_requests, seed, scale)
    run(make_workload(4, seed + 1, 0.1))
    say({"ready": True})
    for line in sys.stdin:
        if line.strip() != "run":
            break
        started_s = time.perf_counter()
        figures = run(workload)
        say({"seconds": time.perf_counter() - started_s, **figures})
