"""The torch lock: core to simulation import, and make the golden plans, where torch cannot be had.

This is the quick form for every test run; .ci/run makes a real environment without torch, in which
the unit tests of these layers pass too.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCKED = ("torch", "numpy", "transformers", "tokenizers", "zmq", "msgspec", "rich", "psutil")
PURE = [
    "core",
    "config",
    "cost",
    "prediction",
    "policies",
    "control",
    "simulation",
    "tracing",
    "reporting",
]

BLOCKER = f"""
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {BLOCKED!r}:
            raise ImportError(name + ' is blocked')
sys.meta_path.insert(0, Blocker())
sys.path.insert(0, {str(ROOT / "src")!r})
"""


def run(code):
    command = [sys.executable, "-c", BLOCKER + code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_blocker_blocks():
    result = run("import torch")
    assert result.returncode != 0 and "torch is blocked" in result.stderr


def test_every_pure_module_imports():
    modules = [
        "tdpipe." + ".".join(path.relative_to(ROOT / "src/tdpipe").with_suffix("").parts)
        for package in PURE
        for path in sorted((ROOT / "src/tdpipe" / package).glob("*.py"))
    ]
    assert len(modules) > 40
    code = "import importlib\n" + "\n".join(f"importlib.import_module({m!r})" for m in modules)
    result = run(code.replace(".__init__", ""))
    assert result.returncode == 0, result.stderr


def test_every_pure_package_is_tested_where_torch_is_not_installed():
    told = (ROOT / ".ci" / "run").read_text().split()
    folders = [f"tests/unit/{name}" for name in PURE if (ROOT / "tests/unit" / name).is_dir()]
    assert folders and set(folders) <= set(told)


def test_the_golden_plans_are_made():
    arguments = ["-q", "-p", "no:cacheprovider", "tests/golden"]
    result = run(f"import pytest, sys; sys.exit(pytest.main({arguments!r}))")
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]
    assert " passed" in result.stdout
