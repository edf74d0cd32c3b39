"""What every result file says of its origin: machine, versions, commit, settings, all raw runs."""

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from tdpipe.frontend.host_processor import cpu_name, cpu_vectors

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("tdpipe", "torch", "transformers", "numpy", "numba")


def write_result(
    name: str, settings: dict[str, Any], figures: dict[str, Any], folder: Path | None = None
) -> Path:
    """Write benchmarks/results/<name>.json (or into `folder`) and return its path."""
    record = {
        "name": name,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        "settings": settings,
        **figures,
    }
    path = (folder or RESULTS) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def machine() -> dict[str, Any]:
    """Processor, its widest vectors, usable cores, memory; no names of hosts or paths."""
    return {
        "cpu": cpu_name(),
        "vectors": cpu_vectors(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.system(),
    }


def cores_text(found: dict[str, Any]) -> str:
    """A machine in a few words; older records do not tell its vectors."""
    vectors = f" ({found['vectors']})" if "vectors" in found else ""
    return f"{found['cores']} cores of {found['cpu']}{vectors}"


def versions() -> dict[str, str]:
    """Python and the packages that matter here, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def commit() -> dict[str, Any]:
    """The commit measured, and whether the sources were changed since; empty without git."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        if shutil.which("git") is None:
            return ""
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return {
        "id": git("rev-parse", "HEAD"),
        "sources_changed": bool(git("status", "--porcelain", "src", "benchmarks/*.py")),
    }
