"""Lines of an OpenAI batch file: reading them one by one, each well or ill by itself."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tdpipe.batch.openai_request import ENDPOINTS, ParsedBody, parse_body
from tdpipe.core.errors import RequestRejected, TdpipeError


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


def read_lines(raw_lines: Iterable[bytes]) -> Iterator[BatchLine | BadLine]:
    """Parse lines in order; blank ones are passed over. Keeps only the custom_ids in memory."""
    seen: dict[str, int] = {}
    for number, raw in enumerate(raw_lines, start=1):
        if raw.strip():
            yield _parse(number, raw, seen)


def _parse(number: int, raw: bytes, seen: dict[str, int]) -> BatchLine | BadLine:
    custom_id: str | None = None
    try:
        line = _object(number, raw)
        given = line.get("custom_id")
        custom_id = given if isinstance(given, str) else None
        if custom_id is None or not custom_id:
            raise RequestRejected("custom_id", given, f"line {number}: give a string")
        if custom_id in seen:
            fix = f"line {number}: already used on line {seen[custom_id]}; make it unique"
            raise RequestRejected("custom_id", custom_id, fix)
        seen[custom_id] = number
        url, body = _url_and_body(number, line)
        model = body.get("model")
        return BatchLine(number, custom_id, url, model, parse_body(url, body))
    except TdpipeError as error:
        return BadLine(number, custom_id, error)


def _object(number: int, raw: bytes) -> dict[str, Any]:
    try:
        line = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        fix = f"line {number}: not UTF-8 (byte {error.start}); write the file as UTF-8"
        raise RequestRejected("line", repr(raw[:40]), fix) from None
    except ValueError as error:
        fix = f"line {number}: not valid JSON ({error})"
        raise RequestRejected("line", raw[:40].decode("utf-8", "replace"), fix) from None
    except RecursionError:
        raise RequestRejected("line", number, f"line {number}: nested too deeply") from None
    if not isinstance(line, dict):
        raise RequestRejected("line", line, f"line {number}: give a JSON object")
    return line


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
