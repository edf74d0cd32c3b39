"""Runs a file of tests in a process of its own: importing triton settles whether it interprets."""

import os
import subprocess
import sys
from pathlib import Path


def run_cases(name: str, **environment: str) -> None:
    """Run tests/torch_cpu/NAME with these environment variables; none may fail or be skipped."""
    cases = Path(__file__).parent / "torch_cpu" / name
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)]
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        command,
        cwd=Path(__file__).parents[1],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert " passed" in result.stdout and "skipped" not in result.stdout
