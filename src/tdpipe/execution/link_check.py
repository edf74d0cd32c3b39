"""Checks send and receive between each pair of ranks, and a sum over all, as stages will use them.

Every rank is a process of its own, which the caller ends when the time is up: point-to-point
between PCIe cards that hangs for ever is a known trouble, and must not hang the check.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

SMALL_BYTES = 4
LARGE_BYTES = 16 << 20
ROUNDS = 5
ALL_REDUCE = "all-reduce.json"


@dataclass(frozen=True, slots=True)
class Link:
    """What was seen of one direction between two ranks; `error` is None when it works."""

    source: int
    target: int
    bytes_per_s: float = 0.0
    latency_s: float = 0.0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class AllReduce:
    """A sum over all ranks: one step's latency, and the bus bandwidth of a large one."""

    latency_s: float
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class LinkReport:
    """All links, by source then target; the sum over all ranks, None where it did not end."""

    backend: str
    links: tuple[Link, ...]
    all_reduce: AllReduce | None = None

    @property
    def all_work(self) -> bool:
        return all(link.error is None for link in self.links)

    def advice(self) -> list[str]:
        """What to change when links fail."""
        if self.backend == "nccl":
            return [
                "set NCCL_P2P_DISABLE=1: cards that cannot reach each other over PCIe then use "
                "host memory",
                "switch off ACS or the IOMMU in the BIOS, or boot with iommu=pt",
                "set NCCL_DEBUG=INFO and look for the first warning",
            ]
        return [
            "set GLOO_SOCKET_IFNAME to the interface that connects the stages (lo on one machine)",
            "allow TCP on that interface in the firewall",
        ]


@dataclass(frozen=True, slots=True)
class LinkPlan:
    """Whom to meet: `meeting` is a URL, `interface` empty where all are on this machine."""

    num_ranks: int
    backend: str
    meeting: str
    interface: str = ""


class LinkRanks:
    """Processes of some of the ranks, on this machine; each leaves what it finds in `folder`."""

    def __init__(self, ranks: Sequence[int], plan: LinkPlan, folder: Path) -> None:
        self._folder = folder
        self._processes = [
            _start(rank, card, plan, folder) for card, rank in enumerate(ranks)
        ]  # fmt: skip

    def are_done(self) -> bool:
        """Whether all have ended."""
        return all(process.poll() is not None for process in self._processes)

    def end(self) -> dict[str, str]:
        """End them; what they left, by name of the file."""
        for process in self._processes:
            process.kill()
            process.wait()
        files = [path for path in self._folder.iterdir() if path.suffix in (".json", ".log")]
        return {path.name: path.read_text(errors="replace") for path in files}


def check_links(num_ranks: int, limit_s: float, device: str = "auto") -> LinkReport:
    """Send between each ordered pair of ranks; a rank that is silent for limit_s is ended."""
    backend = _backend(num_ranks, device)
    with tempfile.TemporaryDirectory(prefix="tdpipe-links-") as folder:
        plan = LinkPlan(num_ranks, backend, f"file://{folder}/rendezvous")
        ranks = LinkRanks(range(num_ranks), plan, Path(folder))
        files: dict[str, str] = {}
        try:
            wait_for(ranks.are_done, limit_s)
        finally:
            files = ranks.end()
    return report_of(plan, files, limit_s)


def wait_for(is_done: Callable[[], bool], limit_s: float) -> None:
    """Return when it is, or when the time is up."""
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s and not is_done():
        time.sleep(0.02)


def report_of(plan: LinkPlan, files: Mapping[str, str], limit_s: float) -> LinkReport:
    """What the files of all ranks say."""
    ranks = range(plan.num_ranks)
    links = tuple(_link(a, b, files, limit_s) for a in ranks for b in ranks if a != b)
    summed = AllReduce(**json.loads(files[ALL_REDUCE])) if ALL_REDUCE in files else None
    return LinkReport(plan.backend, links, summed)


def _backend(num_ranks: int, device: str) -> str:
    import torch

    from tdpipe.core.errors import ConfigError

    cards = torch.cuda.device_count()
    if device == "cuda" and cards < num_ranks:
        raise ConfigError("ranks", num_ranks, f"there are {cards} CUDA devices")
    return "nccl" if device != "cpu" and cards >= num_ranks else "gloo"


def _start(rank: int, card: int, plan: LinkPlan, folder: Path) -> subprocess.Popen[bytes]:
    told = json.dumps({"rank": rank, "card": card, "plan": asdict(plan), "folder": str(folder)})
    with (folder / f"rank{rank}.log").open("wb") as log:
        command = [sys.executable, "-m", "tdpipe.execution.link_check", told]
        return subprocess.Popen(command, stdout=log, stderr=log)


def _link(source: int, target: int, files: Mapping[str, str], limit_s: float) -> Link:
    result = files.get(f"{source}-{target}.json")
    if result is not None:
        return Link(source, target, **json.loads(result))
    for rank in (source, target):
        lines = files.get(f"rank{rank}.log", "").strip().splitlines()
        if lines and "Error" in lines[-1]:
            return Link(source, target, error=lines[-1][:200])
    return Link(source, target, error=f"no answer within {limit_s:.0f} s")


def _run_rank(rank: int, card: int, plan: LinkPlan, folder: Path) -> None:
    """One rank's part: all pairs in the same order on every rank; the target measures."""
    import os

    from tdpipe.execution.stage_worker import loopback_interface

    for name in ("GLOO_SOCKET_IFNAME", *(["NCCL_SOCKET_IFNAME"] if plan.interface else [])):
        os.environ.setdefault(name, plan.interface or loopback_interface())
    import torch
    import torch.distributed as dist

    num_ranks = plan.num_ranks
    device = torch.device(f"cuda:{card}" if plan.backend == "nccl" else "cpu")
    dist.init_process_group(plan.backend, init_method=plan.meeting, rank=rank, world_size=num_ranks)
    for source in range(num_ranks):
        for target in range(num_ranks):
            if source != target and rank in (source, target):
                measured = _exchange(rank, source, target, device)
                if rank == target:
                    _write(folder / f"{source}-{target}.json", measured)
    summed = _sum(num_ranks, device)
    if rank == 0:
        _write(folder / ALL_REDUCE, summed)
    dist.barrier()


def _write(path: Path, measured: dict[str, object]) -> None:
    """All of it or nothing: the caller may end this process at any time."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(measured))
    temporary.rename(path)


def _sum(num_ranks: int, device: object) -> dict[str, object]:
    """Sums of a small tensor, then of a large one; every rank takes part."""
    import torch
    import torch.distributed as dist

    steps = 2 * (num_ranks - 1)

    def seconds(num_bytes: int) -> float:
        numbers = torch.zeros(num_bytes // 4, device=torch.device(str(device)))
        dist.all_reduce(numbers)
        started_s = time.monotonic()
        for _ in range(ROUNDS):
            dist.all_reduce(numbers)
        numbers[0].item()  # waits for the device
        return (time.monotonic() - started_s) / ROUNDS

    small_s, large_s = seconds(SMALL_BYTES), seconds(LARGE_BYTES)
    moved = steps / num_ranks * LARGE_BYTES
    rest_s = max(large_s - small_s, 1e-9)
    return {"latency_s": small_s / steps, "bytes_per_s": moved / rest_s}


def _exchange(rank: int, source: int, target: int, device: object) -> dict[str, object]:
    """Round trips of a small message, then one-way sends of a large one, checked."""
    import torch
    import torch.distributed as dist

    place = torch.device(str(device))
    small = torch.zeros(SMALL_BYTES, dtype=torch.uint8, device=place)
    peer = target if rank == source else source
    started_s = time.monotonic()
    for _ in range(ROUNDS):
        for sender in (source, target):
            dist.send(small, peer) if rank == sender else dist.recv(small, peer)
    latency_s = (time.monotonic() - started_s) / (2 * ROUNDS)
    expected = torch.arange(LARGE_BYTES, device=place).to(torch.uint8)
    large = expected.clone() if rank == source else torch.zeros_like(expected)
    started_s = time.monotonic()
    for _ in range(ROUNDS):
        dist.send(large, peer) if rank == source else dist.recv(large, peer)
    same = bool(torch.equal(large, expected))  # also waits for the device
    took_s = time.monotonic() - started_s
    error = None if same else "the bytes that arrived are not those that were sent"
    return {"bytes_per_s": ROUNDS * LARGE_BYTES / took_s, "latency_s": latency_s, "error": error}


def _main(told: str) -> None:
    values = json.loads(told)
    plan = LinkPlan(**values["plan"])
    _run_rank(values["rank"], values["card"], plan, Path(values["folder"]))


if __name__ == "__main__":
    _main(sys.argv[1])
