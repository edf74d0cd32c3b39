"""Messages between the main process and the replicas: msgpack over zmq, one type tag each.

To a replica one PUSH/PULL pair, so that messages arrive in order; from all replicas PUSH into one
PULL. Only plain data: nothing received is ever executed. Jobs and errors are texts of job_text.
"""

import msgspec

from tdpipe.outputs import Progress, RequestOutput


class SentJob(msgspec.Struct, frozen=True):
    """A job under its number, by which its result names it."""

    number: int
    text: str


class Begin(msgspec.Struct, tag=True, frozen=True):
    """Begin a run; its jobs follow."""

    run: int


class Jobs(msgspec.Struct, tag=True, frozen=True):
    """More jobs of the run."""

    jobs: tuple[SentJob, ...]


class EndJobs(msgspec.Struct, tag=True, frozen=True):
    """No more jobs will come: end the run when all have ended; answer `RunEnded`."""


class FinishEarly(msgspec.Struct, tag=True, frozen=True):
    """End the run: finish what decodes, for grace_s seconds at most; answer `RunEnded`."""

    grace_s: float


class TakeBack(msgspec.Struct, tag=True, frozen=True):
    """Give up those of these jobs that have not begun; answer `GivenBack`."""

    numbers: tuple[int, ...]


class Check(msgspec.Struct, tag=True, frozen=True):
    """Say whether a job could run; answer `Checked`. Between runs only."""

    text: str


class Stop(msgspec.Struct, tag=True, frozen=True):
    """End the process, in the midst of a run too."""


ToReplica = Begin | Jobs | EndJobs | FinishEarly | TakeBack | Check | Stop


class Described(msgspec.Struct, tag=True, frozen=True):
    """The settings can be used; the stages are starting.

    `layers` per stage; `result_settings` are those of LLM, as JSON.
    """

    replica: int
    layers: tuple[int, ...]
    result_settings: str


class Ready(msgspec.Struct, tag=True, frozen=True):
    """The stages are up; `window` jobs may be outstanding."""

    replica: int
    window: int


class Ended(msgspec.Struct, tag=True, frozen=True):
    """A job has ended, with an output or with an error."""

    replica: int
    run: int
    number: int
    output: RequestOutput | None
    error: str | None


class Moment(msgspec.Struct, tag=True, frozen=True):
    """How the run stands."""

    replica: int
    run: int
    progress: Progress


class GivenBack(msgspec.Struct, tag=True, frozen=True):
    """These jobs of those asked for had not begun, and are no longer this replica's."""

    replica: int
    run: int
    numbers: tuple[int, ...]


class RunEnded(msgspec.Struct, tag=True, frozen=True):
    """The run is over; `is_cut`: the grace was too short for what decoded.

    `busy_s` is the mean over the stages of the seconds that they computed.
    """

    replica: int
    run: int
    is_cut: bool = False
    busy_s: float = 0.0
    num_preemptions: int = 0
    num_restarts: int = 0


class Checked(msgspec.Struct, tag=True, frozen=True):
    """The answer to `Check`: the error that the job would end with, None for none."""

    replica: int
    error: str | None


class Said(msgspec.Struct, tag=True, frozen=True):
    """A warning of the replica's engine, for who watches."""

    replica: int
    text: str


class Failed(msgspec.Struct, tag=True, frozen=True):
    """The replica cannot go on, or could not start; it ends after this message."""

    replica: int
    error: str


FromReplica = (
    Described | Ready | Ended | Moment | GivenBack | RunEnded | Checked | Said | Failed
)  # fmt: skip


class ReplicaSpec(msgspec.Struct, frozen=True):
    """Everything a replica needs to start; sent once on its standard input.

    `settings` are LLM's, with the model, as JSON. `cores` are the CPU cores that it and its stages
    may use; empty leaves it where it is. It may fill 1 / num_replicas of the machine's memory.
    The addresses are zmq endpoints.
    """

    replica: int
    num_replicas: int
    settings: str
    cores: tuple[int, ...]
    pool_address: str
    replica_address: str


encode = msgspec.msgpack.Encoder().encode
decode_to_replica = msgspec.msgpack.Decoder(ToReplica).decode
decode_from_replica = msgspec.msgpack.Decoder(FromReplica).decode
decode_spec = msgspec.msgpack.Decoder(ReplicaSpec).decode
