"""What a stage does between start and stop: load, allocate, then batch after batch.

plan from engine -> apply deltas -> hidden states in -> layers -> hidden states out
                                  stage with the head's layer: forecast lengths, report
                                                        last stage: project, sample, report

A card computes by itself: while it does, the stage makes the tensors of the next batch.
"""

import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import torch
import zmq
from torch import Tensor

from tdpipe.core.batch_plan import BatchPlan, Sample
from tdpipe.core.block_pool import blocks_for
from tdpipe.core.tensor_shard import tensor_shards
from tdpipe.execution.attention.attention_backend import AttentionMetadata
from tdpipe.execution.attention.choose_attention import choose_attention
from tdpipe.execution.batch_tensors import BatchTensors, build_batch
from tdpipe.execution.decode_graphs import (
    MOST_ROWS,
    CudaGraphRecorder,
    DecodeGraphs,
    GraphShape,
)
from tdpipe.execution.device_memory import free_kv_bytes, give_back_heap
from tdpipe.execution.fault_injection import fault_for
from tdpipe.execution.host_staging import HostStaging
from tdpipe.execution.models.decoder import StageModel
from tdpipe.execution.models.model_source import load_config
from tdpipe.execution.models.state_probe import StateProbe
from tdpipe.execution.prompt_reader import PromptReader
from tdpipe.execution.sampler import Sampler
from tdpipe.execution.sequence_table import SequenceTable
from tdpipe.execution.stage_clock import install_stage_clock
from tdpipe.execution.tensor_ranks import TensorRanks
from tdpipe.execution.transport import StageLinks, join_group
from tdpipe.execution.warm_up import warm_up_plans
from tdpipe.execution.wire import (
    Allocate,
    Done,
    Loaded,
    Ready,
    Reset,
    Run,
    StageSpec,
    Stop,
    decode_to_stage,
    encode,
)
from tdpipe.lengths.predictor_file import load_head


class StageSession:
    """The model, cache, links and queue of plans of a stage, or of one rank of it.

    `batch_id` is the batch that is worked on, None between batches.
    """

    def __init__(
        self, spec: StageSpec, from_engine: "zmq.Socket[bytes]", to_engine: "zmq.Socket[bytes]"
    ) -> None:
        self.spec = spec
        self.device = torch.device(spec.device)
        self.dtype = getattr(torch, spec.dtype)
        self._from_engine = from_engine
        self._to_engine = to_engine
        self._queue: deque[Run | Reset] = deque()
        self._stopping = False
        self.batch_id: int | None = None
        self._prepares_ahead = self.device.type == "cuda"
        self._ahead: BatchTensors | None = None  # of the batch at the head of the queue
        self._strike = fault_for(spec.stage, spec.tensor_rank)
        if self.device.type == "cpu":
            torch.set_num_threads(spec.threads)
        else:
            torch.cuda.set_device(self.device)

    def run(self) -> None:
        """Load, then serve until told to stop."""
        with torch.inference_mode():
            self._load()
            end_clock = install_stage_clock(self)
            while self._take_messages():
                message = self._queue.popleft()
                if isinstance(message, Run):
                    self._run_batch(message.plan)
                else:
                    self._reset()
        end_clock()
        self.links.drain()

    # ---- start

    def _load(self) -> None:
        spec = self.spec
        started_s = time.monotonic()
        folder = Path(spec.model_folder)
        config = load_config(folder)
        shards = tensor_shards(config.shape(), spec.tensor_parallel_size)
        self.ranks = TensorRanks(shards, spec.tensor_rank)
        self.model = StageModel(
            config,
            spec.first_layer,
            spec.end_layer,
            is_first=spec.stage == 0,
            is_last=spec.stage == spec.num_stages - 1,
            dtype=self.dtype,
            device=self.device,
            max_model_len=spec.max_model_len,
            quantization=spec.quantization,
            ranks=self.ranks,
        )
        self.model.load(folder, spec.load_format)
        weights = self.model.weight_bytes
        self.links = StageLinks(
            spec.stage,
            spec.num_stages,
            config.hidden_size,
            self.dtype,
            self.device,
            self.ranks,
            HostStaging(self.device) if spec.host_staging else None,
        )
        self.sampler = Sampler(config.vocab_size, self.device)
        self.prompt_reader: PromptReader | None = None
        if spec.length_predictor and self.ranks.is_first:
            head = load_head(Path(spec.length_predictor))
            if spec.first_layer < head.depth <= spec.end_layer:
                self.prompt_reader = PromptReader(head)
        self.attention = choose_attention(self.dtype, self.device)
        self.graphs: DecodeGraphs | None = None
        self.table = SequenceTable(blocks_for(spec.max_model_len, spec.block_size))
        self.config = config
        free = free_kv_bytes(
            self.device, spec.memory_utilization, spec.num_ranks, spec.ranks_on_device
        )
        loaded = Loaded(spec.rank, weights, free, time.monotonic() - started_s)
        self._to_engine.send(encode(loaded))

    def _allocate(self, num_blocks: int) -> None:
        spec, config = self.spec, self.config
        self.kv_cache = self.attention.cache_class(
            spec.end_layer - spec.first_layer,
            num_blocks,
            spec.block_size,
            self.ranks.shard.kv_heads.size,
            config.head_dim,
            self.dtype,
            self.device,
            None if spec.kv_cache_dtype == "auto" else getattr(torch, spec.kv_cache_dtype),
        )
        join_group(spec, self.device, self.ranks)
        self._warm_up()
        give_back_heap()
        self._to_engine.send(encode(Ready(spec.rank)))

    def _warm_up(self) -> None:
        for plan in warm_up_plans(self.spec.block_size):
            batch = self._tensors(plan)
            given = batch.token_ids
            if not self.links.is_first:
                size = plan.num_tokens, self.config.hidden_size
                given = torch.zeros(size, dtype=self.dtype, device=self.device)
            hidden = self._hidden(given, batch)
            if self.links.is_last:
                self.model.project(hidden[batch.sampled_rows])
        self.table.clear()
        self._record_decodes()
        self._await_card()
        self.ranks.take_seconds()

    def _record_decodes(self) -> None:
        spec = self.spec
        if not spec.graph_rows or not self.attention.is_recorded:
            return
        shape = GraphShape(
            max_rows=min(spec.graph_rows, MOST_ROWS),
            max_blocks=blocks_for(spec.max_model_len, spec.block_size),
            block_size=spec.block_size,
            hidden_size=self.config.hidden_size,
            dtype=self.dtype,
            device=self.device,
            takes_tokens=self.links.is_first,
        )
        self.graphs = DecodeGraphs(self._layers, shape, CudaGraphRecorder())

    # ---- messages

    def _take_messages(self) -> bool:
        """Move what has arrived to the queue, waiting only if it is empty; False to stop.

        Receives are posted for every queued batch, so that its hidden states travel while an
        earlier one is computed.
        """
        while not self._stopping and (not self._queue or self._from_engine.poll(0)):
            self._take_message()
        return not self._stopping

    def _take_message(self) -> None:
        message = decode_to_stage(self._from_engine.recv())
        if isinstance(message, Allocate):
            self._allocate(message.num_blocks)
        elif isinstance(message, Stop):
            self._stopping = True
        else:
            self._queue.append(message)
            if isinstance(message, Run):
                self.links.post_receive(message.plan.batch_id, message.plan.num_tokens)

    def _reset(self) -> None:
        self.table.clear()
        self.sampler = Sampler(self.config.vocab_size, self.device)
        if self.prompt_reader is not None:
            self.prompt_reader.clear()

    # ---- a batch

    def _run_batch(self, plan: BatchPlan) -> None:
        start_s = time.monotonic()
        self.batch_id = plan.batch_id
        batch, self._ahead = self._ahead or self._tensors(plan), None
        given = batch.token_ids
        if not self.links.is_first:
            given = self.links.receive(plan.batch_id)
            self._await_card()
            start_s = time.monotonic()  # the wait was not work
            self.ranks.take_seconds()
        self._strike(plan)
        hidden, forecasts = self._read(plan, given, batch)
        self._prepare_next()
        samples: tuple[Sample, ...] = ()
        if not self.links.is_last:
            self.links.send(plan.batch_id, hidden)
        elif self.ranks.is_first:
            samples = self._sample(plan, batch, hidden)
        elif len(batch.sampled_rows):
            self.model.project(hidden[batch.sampled_rows])
        self._await_card()
        done = Done(
            self.spec.rank, plan.batch_id, start_s, time.monotonic(), samples,
            self.ranks.take_seconds(), forecasts,
        )  # fmt: skip
        self._to_engine.send(encode(done))
        self.batch_id = None

    def _tensors(self, plan: BatchPlan) -> BatchTensors:
        self.table.apply(plan)
        return build_batch(plan, self.table, self.spec.block_size, self.device)

    def _prepare_next(self) -> None:
        if not self._prepares_ahead:
            return
        while not self._stopping and not self._queue and self._from_engine.poll(0):
            self._take_message()
        if self._queue and isinstance(message := self._queue[0], Run):
            present, self.batch_id = self.batch_id, message.plan.batch_id  # an error is the next's
            self._ahead = self._tensors(message.plan)
            self.batch_id = present

    def _read(
        self, plan: BatchPlan, given: Tensor, batch: BatchTensors
    ) -> tuple[Tensor, dict[int, int]]:
        """As `_hidden`, with forecasts for the prompts that end here, if this stage makes them."""
        ends = self.prompt_reader.ends(plan) if self.prompt_reader is not None else []
        if not ends or self.prompt_reader is None:
            return self._hidden(given, batch), {}
        rows = batch.sampled_rows[[end.sample for end in ends]]
        probe = StateProbe(self.prompt_reader.depth, rows)
        hidden = self._hidden(given, batch, [probe])
        return hidden, self.prompt_reader.read(ends, probe.states)

    def _hidden(
        self, given: Tensor, batch: BatchTensors, probes: Sequence[StateProbe] = ()
    ) -> Tensor:
        """Token ids or hidden states of a batch through this stage's layers."""
        if self.graphs is not None and self.graphs.hold(batch):
            return self.graphs.run(given, batch)  # only prompts are probed
        return self._layers(given, batch.positions, batch.attention, probes)

    def _layers(
        self,
        given: Tensor,
        positions: Tensor,
        meta: AttentionMetadata,
        probes: Sequence[StateProbe] = (),
    ) -> Tensor:
        hidden: Tensor = self.model(given, positions, self.kv_cache, self.attention, meta, probes)
        return hidden

    def _await_card(self) -> None:
        """Wait until the card has done what it was given, so that times are those of its work."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def _sample(self, plan: BatchPlan, batch: BatchTensors, hidden: Tensor) -> tuple[Sample, ...]:
        for request_id in plan.released:
            self.sampler.release(request_id)
        for start in plan.starts:
            self.sampler.start(start)
        for piece in plan.slices:
            self.sampler.see(piece.request_id, piece.token_ids, piece.start)
        sampled = [piece.request_id for piece in plan.slices if piece.samples]
        if not sampled:
            return ()
        logits = self.model.project(hidden[batch.sampled_rows])
        assert logits is not None
        return tuple(self.sampler.sample(sampled, logits))
