"""Typed errors: each names the field, the value and the fix, and becomes one line at the edge.

`assert` is for our own bugs; these are for the user's or the machine's situation.
"""

from enum import StrEnum


class TdpipeError(Exception):
    """Base of every error a user of tdpipe may want to catch."""


class FieldError(TdpipeError, ValueError):
    """A value that cannot be used: which field, what it was, what to do instead."""

    def __init__(self, field: str, value: object, fix: str) -> None:
        super().__init__(field, value, fix)
        self.field = field
        self.value = value
        self.fix = fix

    def __str__(self) -> str:
        try:
            shown = repr(self.value)
        except ValueError:  # a number of more digits than Python prints
            shown = f"({type(self.value).__name__})"
        if len(shown) > 120:
            shown = shown[:117] + "..."
        return f"{self.field}={shown}: {self.fix}"


class ConfigError(FieldError):
    """The engine cannot be set up as asked (model, partition, memory share, scheduler, path)."""


class RequestRejected(FieldError):
    """One request cannot be served; the others are not touched."""


class CapacityError(FieldError):
    """The memory at hand is too small for what must fit in it."""


class FaultKind(StrEnum):
    """How a stage failed; of several signs of one fault the first in this order tells most."""

    RAISED = "raised"  # an exception of its own
    FROZEN = "frozen"  # stopped from outside (SIGSTOP)
    DIED = "died"  # its process ended without a word
    HUNG = "hung"  # no sign of life, or a batch overdue
    CUT_OFF = "cut off"  # its link to a neighbour broke


class StageFailed(TdpipeError, RuntimeError):
    """A stage process raised, died or stopped answering.

    Attributes:
        stage: its number.
        cause: one line.
        detail: its traceback, if it raised.
        kind: how it failed.
        batch_id: the batch that it was at; None if it was at none, or nobody knows.
        tensor_rank: which of the stage's processes it was, where several share it.
    """

    def __init__(
        self,
        stage: int,
        cause: str,
        detail: str = "",
        kind: FaultKind = FaultKind.RAISED,
        batch_id: int | None = None,
        tensor_rank: int = 0,
    ) -> None:
        super().__init__(stage, cause, detail)
        self.stage = stage
        self.cause = cause
        self.detail = detail
        self.kind = kind
        self.batch_id = batch_id
        self.tensor_rank = tensor_rank

    @property
    def headline(self) -> str:
        """The error without the traceback."""
        where = f" at tensor rank {self.tensor_rank}" if self.tensor_rank else ""
        return f"stage {self.stage} failed{where}: {self.cause}"

    def __str__(self) -> str:
        return f"{self.headline}\n{self.detail}" if self.detail else self.headline


class ReplicaFailed(StageFailed):
    """The process of a replica, an engine with all its stages, ended or was stopped for good."""

    def __init__(self, replica: int, cause: str) -> None:
        super().__init__(0, cause, kind=FaultKind.DIED)
        self.replica = replica

    @property
    def headline(self) -> str:
        return f"replica {self.replica} failed: {self.cause}"


class RequestFailed(TdpipeError, RuntimeError):
    """A request was given up because the stages failed at it, in the end with nothing beside it."""

    def __init__(self, failures: int, last: StageFailed) -> None:
        super().__init__(failures, last)
        self.failures = failures
        self.last = last

    def __str__(self) -> str:
        return (
            f"given up: the stages failed {self.failures} times at a batch with this request, "
            f"the last time at one of this request alone (stage {self.last.stage}: "
            f"{self.last.cause})"
        )


class InputRejected(TdpipeError):
    """A batch was to be run only if all its lines are good, and some are not."""

    def __init__(self, num_bad: int, num_lines: int) -> None:
        super().__init__(num_bad, num_lines)
        self.num_bad = num_bad
        self.num_lines = num_lines

    def __str__(self) -> str:
        return f"{self.num_bad} of {self.num_lines} lines are bad: nothing was run"


class TooManyErrors(TdpipeError):
    """More requests of a batch have failed than the user allows; `last` is the last one's error."""

    def __init__(self, num_failed: int, allowed: int, last: str) -> None:
        super().__init__(num_failed, allowed, last)
        self.num_failed = num_failed
        self.allowed = allowed
        self.last = last

    def __str__(self) -> str:
        return f"{self.num_failed} lines failed, more than the {self.allowed} allowed: {self.last}"
