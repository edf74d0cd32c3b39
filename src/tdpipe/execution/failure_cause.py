"""The cause of a stage's failure in one line: from its exception, or from how its process ended."""

import signal

TORCH_CPU_MEMORY = "DefaultCPUAllocator: can't allocate"


def cause_of_exception(error: BaseException) -> str:
    """Type and first line of what was raised, with lack of memory named as such."""
    lines = str(error).strip().splitlines()
    cause = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
    return f"out of memory ({cause})" if is_lack_of_memory(error) else cause


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a card or on the machine; works without importing torch."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or TORCH_CPU_MEMORY in str(error)


def cause_of_end(status: int) -> str:
    """What a process's return code (negative: a signal) says."""
    if status >= 0:
        return f"its process ended (exit status {status})"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "unknown"
    cause = f"its process was killed (signal {-status}, {name})"
    if -status == signal.SIGKILL:
        cause += ", perhaps by the system for lack of memory"
    return cause
