"""Lines of an OpenAI batch file: reading them one by one, each well or ill by itself."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import msgspec

from tdpipe.batch.openai_request import ENDPOINTS, ParsedBody, parse_body
from tdpipe.core.errors import RequestRejected, TdpipeError

# A longer line is no request but a file without line ends; it is never held whole.
MAX_LINE_BYTES = 64 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class BatchLine:
    """A line that can be run; numbers count from 1."""

    number: int
    custom_id: str
    url: str
    model: str | None
    body: ParsedBody


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot; custom_id where one could be read."""

    number: int
    custom_id: str | None
    error: TdpipeError


def raw_lines(file: IO[bytes]) -> Iterator[bytes]:
    """The file's lines as bytes; of one beyond MAX_LINE_BYTES, only its beginning."""
    is_first = True
    while raw := file.readline(MAX_LINE_BYTES + 1):
        if is_first:
            raw, is_first = raw.removeprefix(BYTE_ORDER_MARK), False
        yield raw
        while len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
            raw = file.readline(MAX_LINE_BYTES + 1)  # the rest of it is passed over


def read_lines(
    lines: Iterable[bytes],
    first_use: Callable[[str], int],
    is_done: Callable[[int], bool] = lambda number: False,
) -> Iterator[BatchLine | BadLine]:
    """Parse lines in order; keeps none. Blank ones and those that are done are passed over.

    Args:
        first_use: number of the first line with a custom_id (InputIndex.first_use); a later line
            with it is bad.
    """
    for number, raw in enumerate(lines, start=1):
        if raw.strip() and not is_done(number):
            yield _parse(number, raw, first_use)


def _parse(number: int, raw: bytes, first_use: Callable[[str], int]) -> BatchLine | BadLine:
    custom_id: str | None = None
    try:
        line = _object(number, raw)
        given = line.get("custom_id")
        custom_id = given if isinstance(given, str) else None
        if custom_id is None or not custom_id:
            raise RequestRejected("custom_id", given, f"line {number}: give a string")
        first = first_use(custom_id)
        if first != number:
            fix = f"line {number}: already used on line {first}; make it unique"
            raise RequestRejected("custom_id", custom_id, fix)
        url, body = _url_and_body(number, line)
        model = body.get("model")
        if model is not None and not isinstance(model, str):
            raise RequestRejected("model", model, f"line {number}: give a string")
        return BatchLine(number, custom_id, url, model, parse_body(url, body))
    except TdpipeError as error:
        return BadLine(number, custom_id, error)


def _object(number: int, raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_LINE_BYTES:
        fix = f"line {number}: longer than {MAX_LINE_BYTES >> 20} MiB; write one request a line"
        raise RequestRejected("line", repr(raw[:40]), fix)
    try:
        line = msgspec.json.decode(raw)
    except (msgspec.DecodeError, ValueError) as error:  # ValueError: a number of 5000 digits
        raise _unreadable(number, raw, error) from None
    except RecursionError:
        raise RequestRejected("line", number, f"line {number}: nested too deeply") from None
    if not isinstance(line, dict):
        raise RequestRejected("line", line, f"line {number}: give a JSON object")
    return line


def _unreadable(number: int, raw: bytes, error: Exception) -> RequestRejected:
    try:
        raw.decode()
    except UnicodeDecodeError as broken:
        fix = f"line {number}: not UTF-8 (byte {broken.start}); write the file as UTF-8"
        return RequestRejected("line", repr(raw[:40]), fix)
    fix = f"line {number}: not valid JSON ({error})"
    return RequestRejected("line", raw[:40].decode("utf-8", "replace"), fix)


def _url_and_body(number: int, line: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    method, url, body = line.get("method", "POST"), line.get("url"), line.get("body")
    if method != "POST":
        raise RequestRejected("method", method, f"line {number}: use POST")
    if url not in ENDPOINTS:
        raise RequestRejected("url", url, f"line {number}: use {' or '.join(ENDPOINTS)}")
    if not isinstance(body, dict):
        raise RequestRejected("body", body, f"line {number}: give an object")
    assert isinstance(url, str)
    return url, body
