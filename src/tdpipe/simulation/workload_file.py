"""Workloads from files: a path enters, a Workload leaves; the format is seen from the content.

Formats, by the name to give where "auto" is not wanted:
    lengths        CSV: in_tok, out_tok; num_prefill_tokens, num_decode_tokens; input_tokens,
                   output_tokens; or prompt_tokens, output_tokens; and perhaps arrived_at (s)
    azure          CSV: TIMESTAMP, ContextTokens, GeneratedTokens (Azure LLM inference traces)
    servegen       CSV: client, window_s, input_tokens, output_tokens, no arrivals (ServeGen)
    sharegpt       JSON: conversations of from and value; the first human turn and its answer
    openai-batch   JSONL: custom_id, body; the output is as long as its limit, by default 256
    mooncake       JSONL: timestamp (ms), input_length, output_length, hash_ids (512-token blocks)
    timed-lengths  JSONL: input_toks, output_toks and arrival_time_ns or arrival_time (s)
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tdpipe.core.errors import ConfigError
from tdpipe.simulation.workload import Workload, WorkloadRequest
from tdpipe.simulation.workload_csv import CSV_LAYOUTS, csv_requests
from tdpipe.simulation.workload_json import (
    JSON_READERS,
    CountTokens,
    json_requests,
    quarter_of_characters,
)

CSV_FORMATS = tuple(dict.fromkeys(layout.format for layout in CSV_LAYOUTS))
WORKLOAD_FORMATS = (*CSV_FORMATS, *JSON_READERS)


def read_workload(
    path: str | Path,
    format: str = "auto",
    count_tokens: CountTokens = quarter_of_characters,
) -> Workload:
    """The requests of a file, in its order; arrivals count from the earliest of them.

    Requests without a prompt or without an output token are left out and counted in the workload's
    `dropped_requests`. Times are rounded to a microsecond, finer than any of the formats is.

    Args:
        path: the file, UTF-8 text.
        format: one of WORKLOAD_FORMATS, or "auto" to see it from the header or first record.
        count_tokens: tokens of a text, for the formats that hold texts instead of lengths.

    Raises:
        ConfigError: the file cannot be read or is empty, its format is unknown, or a line is
            broken; the message names the line.
    """
    if format not in ("auto", *WORKLOAD_FORMATS):
        raise ConfigError("format", format, f"use auto or one of {', '.join(WORKLOAD_FORMATS)}")
    place = Path(path)
    text = _text_of(place)
    requests = list(_requests(text, format, place.name, count_tokens))
    kept = [r for r in requests if r.prompt_tokens and r.output_tokens]
    if not kept:
        fix = "no request in it has both prompt and output tokens"
        raise ConfigError("workload", str(path), fix)
    return Workload(place.stem, _from_the_first(kept), len(requests) - len(kept))


def _text_of(place: Path) -> str:
    try:
        text = place.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError("workload", str(place), "there is no such file") from None
    except IsADirectoryError:
        raise ConfigError("workload", str(place), "it is a folder; give a file") from None
    except UnicodeDecodeError:
        raise ConfigError("workload", str(place), "it is not UTF-8 text") from None
    except (OSError, ValueError) as error:
        fix = f"cannot be read ({error.strerror if isinstance(error, OSError) else error})"
        raise ConfigError("workload", str(place), fix) from None
    if not text.strip():
        raise ConfigError("workload", str(place), "the file is empty; give one request a line")
    return text


def _requests(
    text: str, format: str, name: str, count_tokens: CountTokens
) -> Iterator[WorkloadRequest]:
    looks_like_json = text.lstrip()[0] in "[{"
    if format in JSON_READERS or (format == "auto" and looks_like_json):
        return json_requests(text, format, name, count_tokens)
    return csv_requests(text, format, name)


def _from_the_first(requests: list[WorkloadRequest]) -> tuple[WorkloadRequest, ...]:
    first_s = min(request.arrival_s for request in requests)
    return tuple(replace(r, arrival_s=round(r.arrival_s - first_s, 6)) for r in requests)
