"""Messages between the engine and the stages: msgpack over zmq, one type tag each.

A stage is one process, or with tensor parallelism several that share it; a process's rank counts
them all: stage * tensor_parallel_size + tensor rank. Engine to a process: one PUSH/PULL pair each,
so that messages arrive in order and ahead of time. To the engine: all PUSH into one PULL. Only
plain data: nothing received is ever executed.
"""

import msgspec

from tdpipe.core.batch_plan import BatchPlan, Sample
from tdpipe.core.errors import FaultKind
from tdpipe.execution.control_socket import WorkerKeys


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
    """The process has its weights: bytes they take, and bytes free for the KV cache."""

    rank: int
    weight_bytes: int
    free_bytes: int
    load_s: float


class Ready(msgspec.Struct, tag=True, frozen=True):
    """The process has its KV cache and its links, and can run batches."""

    rank: int


class Done(msgspec.Struct, tag=True, frozen=True):
    """The process is done with a batch; the last stage's first one adds the sampled tokens.

    Times are seconds on the machine-wide monotonic clock; `collective_s` of them were spent in
    sums and gathers among the stage's ranks. `forecasts`, by request_id, are output tokens of
    prompts that the batch completed, from the stage that computes the layer a length head reads.
    """

    rank: int
    batch_id: int
    start_s: float
    end_s: float
    samples: tuple[Sample, ...] = ()
    collective_s: float = 0.0
    forecasts: dict[int, int] = {}


class Failed(msgspec.Struct, tag=True, frozen=True):
    """The process raised, or lost a neighbour; it ends after this message.

    `batch_id` is the batch it was computing, None between batches.
    """

    rank: int
    kind: FaultKind
    cause: str
    traceback: str
    batch_id: int | None = None


class Alive(msgspec.Struct, tag=True, frozen=True):
    """A heartbeat: the process runs, whatever its main thread does."""

    rank: int


FromStage = Loaded | Ready | Done | Failed | Alive


class StageSpec(msgspec.Struct, frozen=True):
    """Everything a stage process needs to start; sent once on its standard input.

    `cores` are the CPU cores it may use; empty leaves it where it is. It computes with `threads`.
    `engine_address` and `stage_address` are zmq
    endpoints that ask for `keys` where they have them. `rendezvous` is the URL at which the stages'
    process group meets over the network `interface` (the loopback one if empty); `folder` is one
    that all ranks of the stage see. `ranks_on_device` processes compute on the same card; with
    `host_staging` hidden states go from stage to stage through host memory. `length_predictor` is
    the file of a predictor whose head a stage applies to hidden states; empty for none.
    `load_format`, `quantization` and `kv_cache_dtype` as in EngineConfig.
    Decodes of up to `graph_rows` sequences are recorded as graphs where the device has them; 0 for
    none. `tensor_rank` says which of the `tensor_parallel_size` processes of the stage it is.
    """

    stage: int
    num_stages: int
    model_folder: str
    first_layer: int
    end_layer: int
    dtype: str
    device: str
    cores: tuple[int, ...]
    threads: int
    block_size: int
    max_model_len: int
    memory_utilization: float
    engine_address: str
    stage_address: str
    rendezvous: str
    folder: str
    interface: str = ""
    ranks_on_device: int = 1
    host_staging: bool = False
    keys: WorkerKeys | None = None
    length_predictor: str = ""
    load_format: str = "auto"
    quantization: str | None = None
    kv_cache_dtype: str = "auto"
    graph_rows: int = 0
    tensor_rank: int = 0
    tensor_parallel_size: int = 1

    @property
    def rank(self) -> int:
        """Among the processes of all stages."""
        return self.stage * self.tensor_parallel_size + self.tensor_rank

    @property
    def num_ranks(self) -> int:
        """Processes of all stages."""
        return self.num_stages * self.tensor_parallel_size


encode = msgspec.msgpack.Encoder().encode
decode_to_stage = msgspec.msgpack.Decoder(ToStage).decode
decode_from_stage = msgspec.msgpack.Decoder(FromStage).decode
decode_spec = msgspec.msgpack.Decoder(StageSpec).decode
