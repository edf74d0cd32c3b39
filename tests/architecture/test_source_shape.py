"""The source lock: sizes, names, docstrings, and no outside world in pure packages."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "tdpipe"
FILES = sorted(SOURCE.rglob("*.py"))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
TYPICAL_FUNCTION_LINES = 25
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "base"}
PURE_PACKAGES = ("core", "cost", "policies")
OUTSIDE_WORLD = {
    "time", "random", "socket", "logging", "os", "pathlib", "secrets", "datetime", "io",
    "subprocess", "threading", "tempfile", "sys",
}  # fmt: skip
OUTSIDE_CALLS = {"open", "print", "input"}


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    assert function.end_lineno is not None
    docstring = function.body[0] if ast.get_docstring(function) else None
    lines = function.end_lineno - function.lineno + 1
    if docstring is not None:
        assert docstring.end_lineno is not None
        lines -= docstring.end_lineno - docstring.lineno + 1
    return lines


def faults_of_size(name: str, text: str) -> list[str]:
    faults = []
    if len(text.splitlines()) > MAX_FILE_LINES:
        faults.append(f"{name}: more than {MAX_FILE_LINES} lines")
    for function in functions(ast.parse(text)):
        if lines_of(function) > MAX_FUNCTION_LINES:
            faults.append(f"{name}: {function.name} has {lines_of(function)} lines")
    return faults


def faults_of_purity(name: str, text: str) -> list[str]:
    faults = []
    for node in ast.walk(ast.parse(text)):
        imported: list[str] = []
        if isinstance(node, ast.Import):
            imported = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported = [node.module.split(".")[0]]
        faults += [f"{name}: imports {module}" for module in imported if module in OUTSIDE_WORLD]
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Name) and called.id in OUTSIDE_CALLS:
            faults.append(f"{name}: calls {called.id}()")
    return faults


def shown(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def test_there_is_something_to_check():
    assert len(FILES) > 50


def test_sizes():
    assert [
        fault for path in FILES for fault in faults_of_size(shown(path), path.read_text())
    ] == []


def test_nine_functions_in_ten_are_short():
    sizes = [lines_of(f) for path in FILES for f in functions(ast.parse(path.read_text()))]
    short = sum(size < TYPICAL_FUNCTION_LINES for size in sizes)
    assert short / len(sizes) >= 0.9


def test_no_vague_file_names():
    assert [shown(path) for path in FILES if path.stem in VAGUE_NAMES] == []


def test_every_module_states_its_contract():
    missing = [shown(p) for p in FILES if not ast.get_docstring(ast.parse(p.read_text()))]
    assert missing == []


def test_public_functions_and_classes_are_documented():
    missing = []
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            named = isinstance(node, ast.FunctionDef | ast.ClassDef)
            if named and not node.name.startswith("_") and not ast.get_docstring(node):
                missing.append(f"{shown(path)}: {node.name}")
    assert missing == []


def test_no_unfinished_business():
    marks = ["TO" + "DO", "FIX" + "ME", "Not" + "ImplementedError", "X" * 3]
    found = [f"{shown(p)}: {mark}" for p in FILES for mark in marks if mark in p.read_text()]
    assert found == []


def test_pure_packages_do_not_touch_the_outside_world():
    pure = [path for path in FILES if shown(path).split("/")[0] in PURE_PACKAGES]
    assert len(pure) > 15
    faults = [fault for path in pure for fault in faults_of_purity(shown(path), path.read_text())]
    assert faults == []


@pytest.mark.parametrize(
    "text",
    ["import time", "from random import Random", "print(1)", "f = open('x')"],
)
def test_purity_lock_notices(text):
    assert faults_of_purity("x.py", text)


def test_size_lock_notices():
    assert faults_of_size("x.py", "x = 1\n" * 401)
    assert faults_of_size("x.py", "def f():\n" + "    x = 1\n" * 61)
    assert not faults_of_size("x.py", "def f():\n" + "    x = 1\n" * 59)
