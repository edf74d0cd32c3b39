"""Columns give back what they were given, as lists do, in a tenth of the memory."""

import tracemalloc

import pytest

from tdpipe.core.batch_plan import Phase
from tdpipe.tracing.trace_columns import BatchColumns, SpanColumns
from tdpipe.tracing.trace_records import BatchRecord, StageSpan

SPANS = [StageSpan(i % 3, i, 0.5 * i, 0.5 * i + 0.25) for i in range(20)]
BATCHES = [
    BatchRecord(i, list(Phase)[i % 3], 10 * i, i, 2, 0.5 * i, 7, 8, 9, "why" * (i == 4), 5)
    for i in range(20)
]


@pytest.mark.parametrize(("columns", "records"), [(SpanColumns, SPANS), (BatchColumns, BATCHES)])
def test_like_a_list(columns, records):
    made = columns(records)
    assert len(made) == 20 and list(made) == records and bool(made) and not columns()
    for index in (0, 4, 19, -1, -20):
        assert made[index] == records[index]
    for part in (slice(-3, None), slice(2, 9, 3), slice(None, None, -1), slice(30, 40)):
        assert made[part] == records[part]
    assert list(reversed(made)) == records[::-1]
    for index in (20, -21):
        with pytest.raises(IndexError):
            made[index]


def test_bytes_of_a_long_run():
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    spans, batches = SpanColumns(), BatchColumns()
    for index in range(20000):
        spans.append(StageSpan(1, index, float(index), index + 0.5))
        batches.append(BatchRecord(index, Phase.DECODE, 0, 0, 9, float(index), 1, 1, 1, "", 9))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (after - before) / 20000 < 85
