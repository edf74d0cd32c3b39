"""Batches and spans of a run as columns of numbers: about 45 and 28 bytes each, not ten times that.

Both look like sequences of records: what is read is made anew, what is appended is taken apart.
"""

from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar, overload

from tdpipe.core.batch_plan import Phase
from tdpipe.tracing.trace_records import BatchRecord, StageSpan

Record = TypeVar("Record")
PHASES = tuple(Phase)
# The numbers of a BatchRecord that are neither its phase nor its reason, in order of their columns.
INTEGERS = (
    "batch_id", "prefill_tokens", "num_prefills", "num_decodes", "kv_used_blocks",
    "num_waiting", "num_resident", "num_sampled",
)  # fmt: skip


class Columns(Sequence[Record], Generic[Record]):
    """A sequence that can be appended to, but not changed otherwise."""

    @abstractmethod
    def append(self, record: Record) -> None:
        """Add a record at the end."""

    @abstractmethod
    def _at(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self._at(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._at(index % len(self))

    def __iter__(self) -> Iterator[Record]:
        return (self._at(index) for index in range(len(self)))


class SpanColumns(Columns[StageSpan]):
    """Spans in order of arrival."""

    def __init__(self, spans: Iterable[StageSpan] = ()) -> None:
        self._stages, self._batches = array("H"), array("I")
        self._starts, self._ends = array("d"), array("d")
        self._collectives = array("f")
        for span in spans:
            self.append(span)

    def __len__(self) -> int:
        return len(self._stages)

    def append(self, record: StageSpan) -> None:
        self._stages.append(record.stage)
        self._batches.append(record.batch_id)
        self._starts.append(record.start_s)
        self._ends.append(record.end_s)
        self._collectives.append(record.collective_s)

    def _at(self, index: int) -> StageSpan:
        return StageSpan(
            self._stages[index],
            self._batches[index],
            self._starts[index],
            self._ends[index],
            self._collectives[index],
        )


class BatchColumns(Columns[BatchRecord]):
    """Batches in order of submission; reasons are few, and kept by place."""

    def __init__(self, batches: Iterable[BatchRecord] = ()) -> None:
        self._phases = array("B")
        self._submitted = array("d")
        self._integers = tuple(array("I") for _ in INTEGERS)
        self._reasons: dict[int, str] = {}
        for batch in batches:
            self.append(batch)

    def __len__(self) -> int:
        return len(self._phases)

    def append(self, record: BatchRecord) -> None:
        if record.reason:
            self._reasons[len(self)] = record.reason
        self._phases.append(PHASES.index(record.phase))
        self._submitted.append(record.submitted_s)
        for name, column in zip(INTEGERS, self._integers, strict=True):
            column.append(getattr(record, name))

    def _at(self, index: int) -> BatchRecord:
        integers = {
            name: column[index] for name, column in zip(INTEGERS, self._integers, strict=True)
        }
        return BatchRecord(
            **integers,
            phase=PHASES[self._phases[index]],
            submitted_s=self._submitted[index],
            reason=self._reasons.get(index, ""),
        )
