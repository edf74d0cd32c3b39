"""Turns a batch plan into the index tensors that a stage computes with."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tdpipe.core.batch_plan import BatchPlan, SequenceSlice
from tdpipe.execution.attention.attention_backend import AttentionMetadata, PrefillSpan
from tdpipe.execution.host_staging import to_device
from tdpipe.execution.sequence_table import SequenceTable

Int64Array = npt.NDArray[np.int64]


@dataclass(slots=True)
class BatchTensors:
    """A batch on the stage's device; rows are prefill tokens in order, then one per decode.

    Attributes:
        token_ids: [tokens] int64.
        positions: [tokens] int64, position of each token in its sequence.
        sampled_rows: [sampled] int64, rows whose hidden state yields a next token.
        attention: where K and V go and what each row attends to.
    """

    token_ids: Tensor
    positions: Tensor
    sampled_rows: Tensor
    attention: AttentionMetadata


def build_batch(
    plan: BatchPlan, table: SequenceTable, block_size: int, device: torch.device
) -> BatchTensors:
    """Build the tensors of a plan that `table` has already applied."""
    prefills = plan.slices[: plan.num_prefills]
    decodes = plan.slices[plan.num_prefills :]
    spans, prefill_slots = _prefill_spans(prefills, table, block_size, device)
    tables, lengths = _decode_tables(decodes, table, block_size)
    last_slots = _last_slots(tables, lengths, block_size)

    def move(array: npt.NDArray[np.generic]) -> Tensor:
        return to_device(torch.from_numpy(array), device)

    metadata = AttentionMetadata(
        num_prefill_tokens=sum(piece.num_tokens for piece in prefills),
        prefills=spans,
        slot_mapping=move(np.concatenate([*prefill_slots, last_slots])),
        decode_lengths=move(lengths),
        block_tables=move(tables),
        block_size=block_size,
    )
    token_ids = [token for piece in plan.slices for token in piece.token_ids]
    positions = [np.arange(piece.start, piece.context_tokens) for piece in plan.slices]
    last_rows = np.cumsum([piece.num_tokens for piece in plan.slices]) - 1
    samples = np.array([piece.samples for piece in plan.slices], dtype=bool)
    return BatchTensors(
        token_ids=move(np.array(token_ids, np.int64)),
        positions=move(np.concatenate(positions).astype(np.int64)),
        sampled_rows=move(last_rows[samples].astype(np.int64)),
        attention=metadata,
    )


def _prefill_spans(
    prefills: tuple[SequenceSlice, ...],
    table: SequenceTable,
    block_size: int,
    device: torch.device,
) -> tuple[list[PrefillSpan], list[Int64Array]]:
    """Spans, and the slots of the tokens that are new in each."""
    spans: list[PrefillSpan] = []
    new_slots: list[Int64Array] = []
    first_row = 0
    for piece in prefills:
        context = piece.context_tokens
        at = np.arange(context)
        blocks = table.row(piece.request_id)[at // block_size].astype(np.int64)
        slots = blocks * block_size + at % block_size
        on_device = to_device(torch.from_numpy(slots), device)
        spans.append(PrefillSpan(first_row, piece.num_tokens, context, on_device))
        new_slots.append(slots[piece.start :])
        first_row += piece.num_tokens
    return spans, new_slots


def _decode_tables(
    decodes: tuple[SequenceSlice, ...], table: SequenceTable, block_size: int
) -> tuple[npt.NDArray[np.int32], Int64Array]:
    """Block tables [decodes, blocks], lengths [decodes]."""
    lengths = np.array([piece.context_tokens for piece in decodes], np.int64)
    num_blocks = -(-int(lengths.max()) // block_size) if decodes else 0
    rows = table.rows([piece.request_id for piece in decodes])
    tables = table.blocks[rows, :num_blocks]
    # Beyond a sequence's end the row holds old values: block 0 is as good and always exists.
    used = np.arange(num_blocks) * block_size < lengths[:, None]
    return np.where(used, tables, 0).astype(np.int32), lengths


def _last_slots(tables: npt.NDArray[np.int32], lengths: Int64Array, block_size: int) -> Int64Array:
    """[decodes] slot of the last token of each context."""
    if not len(lengths):
        return lengths
    block, offset = np.divmod(lengths - 1, block_size)
    return tables[np.arange(len(lengths)), block].astype(np.int64) * block_size + offset
