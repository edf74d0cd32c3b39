"""A batch's rows in tiles: rows of one sequence that read its keys and values together.

A decode is a tile of one row; a prefill span is cut into tiles of several, from its end, so that
only its first tile may be short of rows.
"""

from collections.abc import Sequence

import numpy as np

from tdpipe.execution.attention.attention_backend import (
    AttentionMetadata,
    PrefillSpan,
    RowTiles,
)


def row_tiles(meta: AttentionMetadata, rows_of_prefill: int) -> list[RowTiles]:
    """All rows of a batch: the prefills in tiles of `rows_of_prefill`, the decodes one by one."""
    tiles = [_prefill_tiles(meta.prefills, rows_of_prefill, meta.block_size)]
    lengths = meta.decode_lengths.numpy()
    rows = meta.num_prefill_tokens + np.arange(len(lengths))
    tiles.append(RowTiles(1, rows, np.ones_like(rows), lengths, meta.block_tables.numpy()))
    return [one for one in tiles if len(one.last_rows)]


def _prefill_tiles(spans: Sequence[PrefillSpan], rows: int, block_size: int) -> RowTiles:
    counts = [-(-span.num_tokens // rows) for span in spans]
    # Rows of a span from the end of each tile to the span's own.
    behind = [np.arange(count - 1, -1, -1) * rows for count in counts]
    num_blocks = [-(-span.context_tokens // block_size) for span in spans]
    tables = np.zeros((sum(counts), max(num_blocks, default=0)), np.int32)
    at = 0
    for span, count, blocks in zip(spans, counts, num_blocks, strict=True):
        tables[at : at + count, :blocks] = span.slots.numpy()[::block_size] // block_size
        at += count
    nothing = np.zeros(0, np.int64)
    pairs = list(zip(spans, behind, strict=True))
    last_rows = [span.first_row + span.num_tokens - 1 - back for span, back in pairs]
    used = [np.minimum(rows, span.num_tokens - back) for span, back in pairs]
    lengths = [span.context_tokens - back for span, back in pairs]
    return RowTiles(
        rows,
        np.concatenate([nothing, *last_rows]),
        np.concatenate([nothing, *used]),
        np.concatenate([nothing, *lengths]),
        tables,
    )
