"""The import lock: imports go down only, and decisions know the standard library only."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def lint_imports(folder):
    """Run the import contracts of the project in `folder`."""
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_contracts_hold():
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 kept, 0 broken" in result.stdout


def test_the_lock_notices_a_slip(tmp_path, monkeypatch):
    """A policy that imports torch, or the control plane, breaks a contract."""
    shutil.copytree(ROOT / "src", tmp_path / "src")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "src"))
    policy = tmp_path / "src/tdpipe/policies/admission.py"
    original = policy.read_text()
    for slip in ("import torch\n", "import tdpipe.control.arrivals\n"):
        policy.write_text(original + slip)
        assert lint_imports(tmp_path).returncode != 0, slip
