"""Faults on purpose, for tests and benchmarks; off unless an environment variable asks for them.

TDPIPE_FAULT="ACTION [stage=N] [rank=N] [batch=N] [token=N]" makes a stage (any, where none is
named), or the process of that tensor rank in it, do ACTION when it computes the batch of that
number, or a batch that holds that token. It says so on standard error first.

raise    an exception
memory   the exception of a machine without memory
kill     SIGKILL to itself
freeze   SIGSTOP to itself
hang     sleep for ever
"""

import os
import signal
import sys
import time
from collections.abc import Callable

from tdpipe.core.batch_plan import BatchPlan
from tdpipe.core.errors import ConfigError

FAULT = "TDPIPE_FAULT"
# Reports of earlier batches are on their way to the engine: a real fault takes a moment, too.
FLUSH_S = 0.05


def _raise() -> None:
    raise RuntimeError("injected fault")


def _lack_memory() -> None:
    raise MemoryError("injected fault")


def _hang() -> None:
    while True:
        time.sleep(3600)


ACTIONS: dict[str, Callable[[], None]] = {
    "raise": _raise,
    "memory": _lack_memory,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "freeze": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "hang": _hang,
}


def fault_for(stage: int, tensor_rank: int = 0) -> Callable[[BatchPlan], None]:
    """What to call with every batch of a stage: does nothing but where a fault is asked for.

    Raises:
        ConfigError: the variable cannot be understood.
    """
    text = os.environ.get(FAULT, "")
    if not text:
        return lambda plan: None
    action, *conditions = text.split()
    try:
        wanted = {name: int(value) for name, value in (one.split("=") for one in conditions)}
        act = ACTIONS[action]
    except (KeyError, ValueError):
        fix = "use ACTION [stage=N] [rank=N] [batch=N] [token=N]"
        raise ConfigError(FAULT, text, fix) from None
    if (wanted.get("stage", stage), wanted.get("rank", tensor_rank)) != (stage, tensor_rank):
        return lambda plan: None

    def strike(plan: BatchPlan) -> None:
        if wanted.get("batch", plan.batch_id) == plan.batch_id and _holds(
            plan, wanted.get("token")
        ):
            time.sleep(FLUSH_S)
            print(f"{FAULT}: {action}", file=sys.stderr, flush=True)
            act()

    return strike


def _holds(plan: BatchPlan, token_id: int | None) -> bool:
    return token_id is None or any(token_id in piece.token_ids for piece in plan.slices)
