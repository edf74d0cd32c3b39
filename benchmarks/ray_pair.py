"""A Ray cluster of two nodes, each in a network namespace of its own, and a run on it.

python benchmarks/ray_pair.py REQUESTS SCALE    # slow_link.py starts it inside the first namespace
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HEAD = "10.77.0.1"
PORT = 6379
START_LIMIT_S = 60.0


@contextmanager
def ray_nodes(namespaces: tuple[str, str]) -> Iterator[None]:
    """One node of one CPU in each namespace, for as long as the block lasts."""
    # As a module, so that no folder of programs has to be known.
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"]
    start += [f"--object-store-memory={80 << 20}"]
    roles = [
        ["--head", f"--port={PORT}", f"--node-ip-address={HEAD}", "--include-dashboard=false"],
        [f"--address={HEAD}:{PORT}", "--node-ip-address=10.77.0.2"],
    ]
    nodes = []
    try:
        for name, role in zip(namespaces, roles, strict=True):
            command = ["ip", "netns", "exec", name, *start, *role]
            nodes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
            time.sleep(5)  # the other one needs the head
        yield
    finally:
        for node in reversed(nodes):
            node.terminate()
        for node in nodes:
            node.wait()


def run_inside(namespace: str, num_requests: int, scale: float) -> dict[str, Any]:
    """A run with its engine in the namespace; figures as of slow_link.run."""
    command = ["ip", "netns", "exec", namespace, sys.executable, str(Path(__file__))]
    shown = subprocess.run(
        [*command, str(num_requests), str(scale)], stdout=subprocess.PIPE, check=True
    ).stdout
    found: dict[str, Any] = json.loads(shown.splitlines()[-1])
    return found


def main() -> None:
    """Wait for both nodes, run, print."""
    import ray

    from slow_link import run
    from workload_lognormal import make_workload

    ray.init(address=f"{HEAD}:{PORT}", logging_level="ERROR", log_to_driver=False)
    deadline_s = time.monotonic() + START_LIMIT_S
    while len(ray.nodes()) < 2 and time.monotonic() < deadline_s:
        time.sleep(0.2)
    workload = make_workload(int(sys.argv[1]), seed=0, scale=float(sys.argv[2]))
    print(json.dumps(run("PP2", workload, distributed_executor_backend="ray")))


if __name__ == "__main__":
    main()
