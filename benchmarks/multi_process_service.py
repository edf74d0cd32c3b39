"""NVIDIA's Multi-Process Service, so that processes compute on one card at the same time.

Without it a card gives its processes time in turn, each the whole card. With it each may use a
percentage of the multiprocessors, which processes started meanwhile inherit by the environment.
Source: NVIDIA, Multi-Process Service documentation (CUDA_MPS_ACTIVE_THREAD_PERCENTAGE).
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tdpipe.frontend.stage_profile_cache import MPS_SHARE

CONTROL = "nvidia-cuda-mps-control"
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
DEFAULT_PIPES = Path("/tmp/nvidia-mps")
LIMIT_S = 60.0
# What a process that can use the card says.
PROBE = """
import torch
torch.zeros(1, device="cuda").item()
print(torch.cuda.get_device_properties(0).multi_processor_count)
"""


@contextmanager
def card_in_parts(num_parts: int) -> Iterator[dict[str, str] | None]:
    """The environment of processes that may use one of so many parts of a card each.

    A daemon that runs already is used and left alone; one that is started here is stopped at the
    end, by when all of these processes must have ended. None, and a line on standard error, where
    the service is not to be had: the card then gives each process the whole of it in turn.
    """
    if shutil.which(CONTROL) is None:
        print(f"no {CONTROL} here: processes take turns on the card", file=sys.stderr)
        yield None
        return
    own = os.environ.get(PIPES)
    is_running = (Path(own) if own else DEFAULT_PIPES).joinpath("control").exists()
    environment = {**os.environ, MPS_SHARE: str(100 // num_parts)}
    if is_running:
        yield environment if _works(environment) else None
        return
    with tempfile.TemporaryDirectory(prefix="mps-", ignore_cleanup_errors=True) as folder:
        environment |= {PIPES: folder, LOGS: folder}
        if not _control(["-d"], environment):
            yield None
            return
        try:
            yield environment if _works(environment) else None
        finally:
            _control([], environment, told="quit\n")


def _control(arguments: list[str], environment: dict[str, str], told: str = "") -> bool:
    """Start the daemon, or tell it something; whether that went well."""
    try:
        # The daemon keeps what it is given as its output, and who reads ours would wait for it.
        done = subprocess.run(
            [CONTROL, *arguments],
            input=told,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=LIMIT_S,
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        print(f"{CONTROL} does not answer", file=sys.stderr)
        return False
    if done.returncode:
        print(f"{CONTROL} failed with status {done.returncode}", file=sys.stderr)
    return done.returncode == 0


def _works(environment: dict[str, str]) -> bool:
    """Whether a process in this environment can use the card; says how much of it."""
    command = [sys.executable, "-c", PROBE]
    try:
        done = subprocess.run(
            command, env=environment, timeout=LIMIT_S, capture_output=True, text=True, check=False
        )
    except subprocess.TimeoutExpired:
        print("a process under the service does not answer; without it", file=sys.stderr)
        return False
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        print(f"the service does not work here ({last}); without it", file=sys.stderr)
        return False
    print(f"each process has {done.stdout.strip()} multiprocessors", file=sys.stderr)
    return True
