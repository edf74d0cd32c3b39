"""Messages between the engine and the stages: msgpack over zmq, one type tag each.

Engine to stage k: one PUSH/PULL pair a stage, so that messages arrive in order and ahead of time.
Stages to engine: all PUSH into one PULL. Only plain data: nothing received is ever executed.
"""

import msgspec

from tdpipe.core.batch_plan import BatchPlan, Sample
from tdpipe.core.errors import FaultKind


class Allocate(msgspec.Struct, tag=True, frozen=True):
    """Make the KV cache, num_blocks blocks for each of the stage's layers; answer `Ready`."""

    num_blocks: int


class Run(msgspec.Struct, tag=True, frozen=True):
    """Compute a batch, after all batches sent before it."""

    plan: BatchPlan


class Reset(msgspec.Struct, tag=True, frozen=True):
    """Forget all sequences; sent between runs, when nothing is in flight."""


class Stop(msgspec.Struct, tag=True, frozen=True):
    """End the process."""


ToStage = Allocate | Run | Reset | Stop


class Loaded(msgspec.Struct, tag=True, frozen=True):
    """The stage has its weights: bytes they take, and bytes free for the KV cache."""

    stage: int
    weight_bytes: int
    free_bytes: int
    load_s: float


class Ready(msgspec.Struct, tag=True, frozen=True):
    """The stage has its KV cache and its links, and can run batches."""

    stage: int


class Done(msgspec.Struct, tag=True, frozen=True):
    """The stage handed a batch on; the last stage adds the sampled tokens.

    Times are seconds on the machine-wide monotonic clock.
    """

    stage: int
    batch_id: int
    start_s: float
    end_s: float
    samples: tuple[Sample, ...] = ()


class Failed(msgspec.Struct, tag=True, frozen=True):
    """The stage raised, or lost a neighbour; it ends after this message.

    `batch_id` is the batch it was computing, None between batches.
    """

    stage: int
    kind: FaultKind
    cause: str
    traceback: str
    batch_id: int | None = None


class Alive(msgspec.Struct, tag=True, frozen=True):
    """A heartbeat: the stage's process runs, whatever its main thread does."""

    stage: int


FromStage = Loaded | Ready | Done | Failed | Alive


class StageSpec(msgspec.Struct, frozen=True):
    """Everything a stage process needs to start; sent once on its standard input.

    `cores` are the CPU cores it may use, one thread each; empty leaves it where it is.
    `engine_address` and `stage_address` are zmq endpoints, `rendezvous` the file through which
    the stages' process group meets. `length_predictor` is the file of a predictor whose head the
    last stage applies to hidden states; empty for none. `quantization` as in EngineConfig.
    """

    stage: int
    num_stages: int
    model_folder: str
    first_layer: int
    end_layer: int
    dtype: str
    device: str
    cores: tuple[int, ...]
    block_size: int
    max_model_len: int
    memory_utilization: float
    engine_address: str
    stage_address: str
    rendezvous: str
    length_predictor: str = ""
    quantization: str | None = None


encode = msgspec.msgpack.Encoder().encode
decode_to_stage = msgspec.msgpack.Decoder(ToStage).decode
decode_from_stage = msgspec.msgpack.Decoder(FromStage).decode
decode_spec = msgspec.msgpack.Decoder(StageSpec).decode
