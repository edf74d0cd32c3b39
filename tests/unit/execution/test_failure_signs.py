"""Causes in one line, the most telling sign of a fault, and faults injected on purpose."""

import signal
from types import SimpleNamespace

import pytest

from tdpipe.core.errors import ConfigError, FaultKind, StageFailed
from tdpipe.execution import fault_injection
from tdpipe.execution.failure_cause import cause_of_end, cause_of_exception
from tdpipe.execution.stage_connection import most_telling


class OutOfMemoryError(RuntimeError):
    """As torch's own, by name."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nmore"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_lack_of_memory_is_named(error):
    cause = cause_of_exception(error)
    assert cause.startswith("out of memory (") and "\n" not in cause


def test_other_causes():
    assert cause_of_exception(ValueError("a\nb")) == "ValueError: a"
    assert "lack of memory" in cause_of_end(-signal.SIGKILL)
    assert cause_of_end(-signal.SIGSEGV) == "its process was killed (signal 11, SIGSEGV)"
    assert cause_of_end(-64).endswith("unknown)") or "SIGRT" in cause_of_end(-64)
    assert cause_of_end(3) == "its process ended (exit status 3)"


def sign(stage, kind, rank=0):
    return StageFailed(stage, "x", kind=kind, tensor_rank=rank)


def test_the_most_telling_sign():
    raised, died = sign(0, FaultKind.RAISED), sign(0, FaultKind.DIED)
    cut_off, its_end = sign(1, FaultKind.CUT_OFF), sign(1, FaultKind.DIED)
    assert most_telling([cut_off, its_end, died, raised]) is raised
    assert most_telling([cut_off, its_end, died]) is died
    assert most_telling([cut_off, its_end]) is cut_off
    # Of two that share a stage, one was cut off because the other died.
    its_neighbour = sign(1, FaultKind.DIED, rank=1)
    assert most_telling([cut_off, its_neighbour, its_end]) is its_neighbour


def plan(batch_id, *token_ids):
    return SimpleNamespace(batch_id=batch_id, slices=[SimpleNamespace(token_ids=token_ids)])


def test_injected_faults(monkeypatch):
    monkeypatch.delenv(fault_injection.FAULT, raising=False)
    fault_injection.fault_for(0)(plan(5, 7))
    monkeypatch.setenv(fault_injection.FAULT, "raise stage=1 batch=5")
    fault_injection.fault_for(0)(plan(5))
    fault_injection.fault_for(1)(plan(4))
    with pytest.raises(RuntimeError, match="injected"):
        fault_injection.fault_for(1)(plan(5))
    monkeypatch.setenv(fault_injection.FAULT, "memory token=7")
    fault_injection.fault_for(0)(plan(5, 6, 8))
    with pytest.raises(MemoryError):
        fault_injection.fault_for(0)(plan(5, 6, 7))
    for text in ("explode", "raise stage", "raise batch=x"):
        monkeypatch.setenv(fault_injection.FAULT, text)
        with pytest.raises(ConfigError, match="use ACTION"):
            fault_injection.fault_for(0)
