"""Jobs and errors as JSON text, and back, unchanged.

JSON in the messages' msgpack, because a job is what a user wrote: whole numbers of any size and
text that UTF-8 cannot hold (lone surrogates) must reach the engine that refuses them.
"""

import json
from typing import Any

import msgspec

from tdpipe.core.errors import (
    CapacityError,
    ConfigError,
    FaultKind,
    FieldError,
    InputRejected,
    ReplicaFailed,
    RequestFailed,
    RequestRejected,
    StageFailed,
    TdpipeError,
    TooManyErrors,
)
from tdpipe.core.sampling_params import SamplingParams
from tdpipe.outputs import Job

FIELD_ERRORS = {kind.__name__: kind for kind in (ConfigError, RequestRejected, CapacityError)}
# Errors that their arguments, plain values, make again.
PLAIN_ERRORS = {kind.__name__: kind for kind in (InputRejected, TooManyErrors, TdpipeError)}
# Of a value that cannot travel its repr does; messages show less of it.
SHOWN_CHARACTERS = 200


class ShownValue:
    """Stands for a value that cannot be sent: it is shown as the value would be."""

    def __init__(self, shown: str) -> None:
        self._shown = shown

    def __repr__(self) -> str:
        return self._shown


def job_text(job: Job) -> str:
    """A job without its key and error, which stay here.

    Raises:
        RequestRejected: prompt or messages are no plain values.
    """
    rest = {
        "params": msgspec.to_builtins(job.params),
        "length_hint": job.length_hint,
        "place": job.place,
        "prompt": job.prompt,
        "messages": job.messages,
    }
    try:
        return json.dumps(rest)
    except (TypeError, ValueError, RecursionError):
        name = "messages" if job.messages is not None else "prompt"
        fix = "give plain values: text, lists of token ids, or messages of text"
        raise RequestRejected(name, getattr(job, name), fix) from None


def job_from(text: str, key: object) -> Job:
    """The job that `job_text` made this of, under a key."""
    rest = json.loads(text)
    return Job(
        key,
        rest["prompt"],
        rest["messages"],
        SamplingParams(**rest["params"]),
        rest["length_hint"],
        rest["place"],
    )


def error_text(error: TdpipeError) -> str:
    """An error with all that its message and its fields need."""
    return json.dumps(_error_fields(error))


def error_from(text: str) -> TdpipeError:
    """The error that `error_text` made this of, of the same type."""
    return _error_of(json.loads(text))


def _error_fields(error: TdpipeError) -> dict[str, Any]:
    kind = type(error).__name__
    if isinstance(error, FieldError):
        return {"kind": kind, "field": error.field, "fix": error.fix, **_value(error.value)}
    if isinstance(error, ReplicaFailed):
        return {"kind": kind, "replica": error.replica, "cause": error.cause}
    if isinstance(error, StageFailed):
        names = ("stage", "cause", "detail", "kind", "batch_id", "tensor_rank")
        return {"kind": kind, "of": {name: getattr(error, name) for name in names}}
    if isinstance(error, RequestFailed):
        return {"kind": kind, "failures": error.failures, "last": _error_fields(error.last)}
    if kind in PLAIN_ERRORS and _travels(list(error.args)):
        return {"kind": kind, "args": error.args}
    return {"kind": "TdpipeError", "args": [str(error)]}


def _error_of(fields: dict[str, Any]) -> TdpipeError:
    kind = fields["kind"]
    if kind == "ReplicaFailed":
        return ReplicaFailed(fields["replica"], fields["cause"])
    if kind == "StageFailed":
        of = fields["of"]
        return StageFailed(**{**of, "kind": FaultKind(of["kind"])})
    if kind == "RequestFailed":
        last = _error_of(fields["last"])
        assert isinstance(last, StageFailed)
        return RequestFailed(fields["failures"], last)
    if kind in PLAIN_ERRORS:
        return PLAIN_ERRORS[kind](*fields["args"])
    value = fields["value"] if "value" in fields else ShownValue(fields["shown"])
    return FIELD_ERRORS[kind](fields["field"], value, fields["fix"])


def _value(value: object) -> dict[str, Any]:
    """The value itself where it comes back the same, else what is shown of it."""
    if _travels(value):
        return {"value": value}
    try:
        return {"shown": repr(value)[:SHOWN_CHARACTERS]}
    except ValueError:  # a number of more digits than Python prints: as FieldError shows it
        return {"shown": f"({type(value).__name__})"}


def _travels(value: object) -> bool:
    try:
        return repr(json.loads(json.dumps(value))) == repr(value)
    except (TypeError, ValueError, RecursionError):
        return False
