"""Workloads from JSON: one request a record, the layout known by the first record's keys.

The records are the lines of a JSONL file or the items of one JSON list; every format is read from
both. Requests leave in order, with arrivals as the file counts them (in seconds) and requests of
0 tokens still there; workload_file makes them a Workload.
"""

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from tdpipe.simulation.workload import PREFIX_BLOCK_TOKENS, WorkloadRequest
from tdpipe.simulation.workload_fields import broken, finite_number, whole_number

CountTokens = Callable[[str], int]
Record = dict[str, Any]

DEFAULT_MAX_TOKENS = 256
HUMAN_NAMES = ("human", "user")
MODEL_NAMES = ("gpt", "chatgpt", "assistant", "bing", "bard")


def json_requests(
    text: str, format: str, name: str, count_tokens: CountTokens
) -> Iterator[WorkloadRequest]:
    """The requests of JSON or JSONL text; `name` is the file's, for errors.

    Raises:
        ConfigError: no format fits the first record, or a record is broken.
    """
    reader: Callable[[Record, str, CountTokens], WorkloadRequest] | None = None
    for where, record in _records(text, name):
        if not isinstance(record, dict):
            raise broken(where, "it must be a JSON object")
        if reader is None:
            chosen = _format_of(record, where) if format == "auto" else format
            reader = JSON_READERS[chosen][1]
        yield reader(record, where, count_tokens)


def _records(text: str, name: str) -> Iterator[tuple[str, object]]:
    """Each record with its place."""
    if text.lstrip().startswith("["):
        for index, record in enumerate(_parsed(text, name, 1), start=1):
            yield f"{name}, record {index}", record
        return
    # Not splitlines(): JSON strings may hold U+2028 and its like.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{name}, line {number}", _parsed(line, name, number)


def _parsed(text: str, name: str, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        fix = f"it is not JSON ({error.msg} at column {error.colno})"
    except (ValueError, RecursionError):
        line, fix = first_line, "it is not JSON (a number too long or lists too deep)"
    raise broken(f"{name}, line {line}", fix) from None


def _format_of(record: Record, where: str) -> str:
    for format, (keys, _) in JSON_READERS.items():
        if all(key in record for key in keys):
            return format
    choices = "; or ".join(", ".join(keys) for keys, _ in JSON_READERS.values())
    raise broken(where, f"no known format has these keys; they may be {choices}")


def _field(record: Record, key: str, where: str) -> Any:
    if key not in record:
        raise broken(where, f"{key} is missing")
    return record[key]


def _sharegpt(record: Record, where: str, count_tokens: CountTokens) -> WorkloadRequest:
    """The first human turn and the answer to it; 0 tokens where there is no such pair."""
    turns = _field(record, "conversations", where)
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise broken(where, "conversations must be a list of objects with from and value")
    for asked, answered in pairwise(turns):
        if asked.get("from") in HUMAN_NAMES and answered.get("from") in MODEL_NAMES:
            prompt = _text(_field(asked, "value", where), "value", where)
            output = _text(_field(answered, "value", where), "value", where)
            return WorkloadRequest(count_tokens(prompt), count_tokens(output))
    return WorkloadRequest(0, 0)


def _openai_batch(record: Record, where: str, count_tokens: CountTokens) -> WorkloadRequest:
    """The texts of all messages (or the prompt), and the output limit as the output's length."""
    body = _field(record, "body", where)
    if not isinstance(body, dict):
        raise broken(where, "body must be an object")
    limits = [("max_completion_tokens", body.get("max_completion_tokens"))]
    limits += [("max_tokens", body.get("max_tokens")), ("default", DEFAULT_MAX_TOKENS)]
    field, limit = next(pair for pair in limits if pair[1] is not None)
    prompt_tokens = _prompt_tokens(body, where, count_tokens)
    return WorkloadRequest(prompt_tokens, whole_number(limit, field, where))


def _prompt_tokens(body: Record, where: str, count_tokens: CountTokens) -> int:
    if "messages" in body:
        messages = body["messages"]
        if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
            raise broken(where, "messages must be a list of objects with role and content")
        return count_tokens("\n".join(_content(message, where) for message in messages))
    prompt = _field(body, "prompt", where)
    if isinstance(prompt, list) and all(type(token) is int for token in prompt):
        return len(prompt)
    return count_tokens(_text(prompt, "prompt", where))


def _content(message: Record, where: str) -> str:
    """A message's text: a string, or the text parts of a list; none for null (tool calls)."""
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        texts = [part.get("text", "") for part in content]
        return "\n".join(_text(text, "text", where) for text in texts)
    return "" if content is None else _text(content, "content", where)


def _text(value: object, field: str, where: str) -> str:
    if not isinstance(value, str):
        raise broken(where, f"{field} must be a string, not {type(value).__name__}")
    return value


def _mooncake(record: Record, where: str, count_tokens: CountTokens) -> WorkloadRequest:
    """Lengths, milliseconds and the ids of the prompt's 512-token blocks."""
    hashes = record.get("hash_ids") or []
    if not isinstance(hashes, list) or not all(type(block) is int for block in hashes):
        raise broken(where, "hash_ids must be a list of whole numbers")
    prompt = whole_number(_field(record, "input_length", where), "input_length", where)
    if len(hashes) > -(-prompt // PREFIX_BLOCK_TOKENS):
        fix = f"{len(hashes)} hash_ids are more than {prompt} tokens in blocks of 512 have"
        raise broken(where, fix)
    output = whole_number(_field(record, "output_length", where), "output_length", where)
    arrival_ms = finite_number(_field(record, "timestamp", where), "timestamp", where)
    return WorkloadRequest(prompt, output, arrival_ms / 1e3, tuple(hashes))


def _timed_lengths(record: Record, where: str, count_tokens: CountTokens) -> WorkloadRequest:
    """input_toks, output_toks and a time: arrival_time_ns, or arrival_time in s, or none."""
    prompt = whole_number(_field(record, "input_toks", where), "input_toks", where)
    output = whole_number(_field(record, "output_toks", where), "output_toks", where)
    arrival_s = 0.0
    if "arrival_time_ns" in record:
        arrival_s = finite_number(record["arrival_time_ns"], "arrival_time_ns", where) / 1e9
    elif "arrival_time" in record:
        arrival_s = finite_number(record["arrival_time"], "arrival_time", where)
    return WorkloadRequest(prompt, output, arrival_s)


# The keys that make a format, and its reader of one record.
JSON_READERS: dict[
    str, tuple[tuple[str, ...], Callable[[Record, str, CountTokens], WorkloadRequest]]
] = {
    "sharegpt": (("conversations",), _sharegpt),
    "openai-batch": (("custom_id", "body"), _openai_batch),
    "mooncake": (("timestamp", "input_length", "output_length"), _mooncake),
    "timed-lengths": (("input_toks", "output_toks"), _timed_lengths),
}


def quarter_of_characters(text: str) -> int:
    """Tokens of a text, estimated at 4 characters each and rounded up."""
    return -(-len(text) // 4)
