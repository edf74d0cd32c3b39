"""Workloads from CSV text: one request a row, the layout known by its column names.

Text enters, requests leave in the order of the rows, with arrivals as the file counts them (in
seconds) and rows of 0 tokens still there; workload_file makes them a Workload.
"""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO

from tdpipe.core.errors import ConfigError
from tdpipe.simulation.workload import WorkloadRequest
from tdpipe.simulation.workload_fields import broken, finite_number, whole_number


def clock_time_s(value: object, field: str, where: str) -> float:
    """A date and time such as 2023-11-16 18:15:46.6805900, in seconds since 1970."""
    try:
        moment = datetime.fromisoformat(str(value).strip())
    except ValueError:
        raise broken(where, f"{field} must be a date and time, not {value!r}") from None
    # Without a zone it is read as UTC: only differences are used, and UTC has no lost hour.
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


@dataclass(frozen=True, slots=True)
class CsvLayout:
    """Column names that make a format, and how its times are spelled."""

    format: str
    prompt: str
    output: str
    arrival: str | None = None
    arrival_is_required: bool = False
    arrival_s: Callable[[object, str, str], float] = finite_number
    marks: tuple[str, ...] = ()

    def required(self) -> tuple[str, ...]:
        """The columns a file of this layout must have."""
        arrival = (self.arrival,) if self.arrival and self.arrival_is_required else ()
        return (*arrival, self.prompt, self.output, *self.marks)


# The first that fits is taken, so the one with the more columns stands first.
CSV_LAYOUTS = (
    CsvLayout("azure", "ContextTokens", "GeneratedTokens", "TIMESTAMP", True, clock_time_s),
    # Arrivals stay 0: window_s is the start of a window of hours, not the request's own time.
    CsvLayout("servegen", "input_tokens", "output_tokens", marks=("client", "window_s")),
    CsvLayout("lengths", "in_tok", "out_tok"),
    CsvLayout("lengths", "num_prefill_tokens", "num_decode_tokens", "arrived_at"),
    CsvLayout("lengths", "input_tokens", "output_tokens", "arrived_at"),
    CsvLayout("lengths", "prompt_tokens", "output_tokens", "arrived_at"),
)


def csv_requests(text: str, format: str, name: str) -> Iterator[WorkloadRequest]:
    """The requests of CSV text; `name` is the file's, for errors.

    Raises:
        ConfigError: no layout of the format fits the header, or a row is broken.
    """
    rows = _numbered_rows(text, name)
    _, first = next(rows, (0, []))
    header = [column.strip() for column in first]
    layout = _layout_of(header, format, name)
    for line, row in rows:
        where = f"{name}, line {line}"
        if len(row) != len(header):
            raise broken(where, f"it has {len(row)} columns where the header has {len(header)}")
        yield _request(dict(zip(header, row, strict=True)), layout, where)


def _numbered_rows(text: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, with the number of the line they end on."""
    reader = csv.reader(StringIO(text), strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise broken(f"{name}, line {reader.line_num}", f"it is not CSV ({error})") from None


def _layout_of(header: list[str], format: str, name: str) -> CsvLayout:
    layouts = [layout for layout in CSV_LAYOUTS if format in ("auto", layout.format)]
    for layout in layouts:
        if set(layout.required()) <= set(header):
            return layout
    choices = "; or ".join(", ".join(layout.required()) for layout in layouts)
    near = min(layouts, key=lambda layout: len(set(layout.required()) - set(header)))
    missing = [column for column in near.required() if column not in header]
    if len(missing) < len(near.required()):
        fix = f"column {missing[0]} is missing; the columns may be {choices}"
    else:
        fix = f"no columns with lengths in its first line; they may be {choices}"
    raise ConfigError("workload", name, fix)


def _request(row: dict[str, str], layout: CsvLayout, where: str) -> WorkloadRequest:
    arrival = layout.arrival if layout.arrival in row else None
    return WorkloadRequest(
        prompt_tokens=whole_number(row[layout.prompt], layout.prompt, where),
        output_tokens=whole_number(row[layout.output], layout.output, where),
        arrival_s=layout.arrival_s(row[arrival], arrival, where) if arrival else 0.0,
    )
