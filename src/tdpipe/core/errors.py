"""Typed errors: each names the field, the value and the fix, and becomes one line at the edge.

`assert` is for our own bugs; these are for the user's or the machine's situation.
"""


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
        shown = repr(self.value)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        return f"{self.field}={shown}: {self.fix}"


class ConfigError(FieldError):
    """The engine cannot be set up as asked (model, partition, memory share, scheduler, path)."""


class RequestRejected(FieldError):
    """One request cannot be served; the others are not touched."""


class CapacityError(FieldError):
    """The memory at hand is too small for what must fit in it."""


class StageFailed(TdpipeError, RuntimeError):
    """A stage process raised, died or stopped answering; `detail` carries its traceback."""

    def __init__(self, stage: int, cause: str, detail: str = "") -> None:
        super().__init__(stage, cause, detail)
        self.stage = stage
        self.cause = cause
        self.detail = detail

    def __str__(self) -> str:
        text = f"stage {self.stage} failed: {self.cause}"
        return f"{text}\n{self.detail}" if self.detail else text
