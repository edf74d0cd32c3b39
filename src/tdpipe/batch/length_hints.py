"""Output lengths from an earlier run's results, by custom_id.

The same prompts under another model have lengths of nearly the same order (rank correlation 0.64
to 0.87 in public data), more than a prompt's text tells. Results of `run-batch` are read, of any
engine that writes OpenAI's batch format, and tables of `tdpipe lengths collect`.
"""

import json
from pathlib import Path
from typing import Any

from tdpipe.core.errors import ConfigError


def read_length_hints(path: str) -> dict[str, int]:
    """Output tokens by custom_id; lines that tell none (errors, torn ones) are passed over.

    Raises:
        ConfigError: the file cannot be read, or no line of it tells a length.
    """
    hints: dict[str, int] = {}
    try:
        with Path(path).open("rb") as lines:
            for line in lines:
                found = _hint(line)
                if found is not None:
                    hints[found[0]] = found[1]
    except OSError as error:
        fix = f"cannot be read ({error.strerror})"
        raise ConfigError("length_hints", path, fix) from None
    if not hints:
        fix = "no line has a custom_id and usage.completion_tokens: give results of run-batch"
        raise ConfigError("length_hints", path, fix)
    return hints


def _hint(line: bytes) -> tuple[str, int] | None:
    try:
        record = json.loads(line)
        custom_id, (tokens, num_outputs) = record["custom_id"], _output_tokens(record)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    whole = isinstance(tokens, int) and not isinstance(tokens, bool)
    if not whole or not 0 < num_outputs <= tokens or not isinstance(custom_id, str):
        return None
    return custom_id, tokens // num_outputs


def _output_tokens(record: dict[str, Any]) -> tuple[Any, int]:
    """Tokens of all outputs, and how many outputs."""
    if "output_tokens" in record:
        return record["output_tokens"], 1
    body = record["response"]["body"]
    return body["usage"]["completion_tokens"], len(body["choices"])
