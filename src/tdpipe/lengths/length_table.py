"""Tables of prompts and how long their outputs were: what a predictor learns from.

JSON lines. The first names the format, the model and the temperature; each further line is one
prompt, as token ids with what the chat template adds, and its output's length in tokens.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tdpipe.core.errors import ConfigError

# Raised when the meaning of a field changes.
FORMAT_VERSION = 1
PARTS = ("train", "validation", "test")
# Of 100 hash values, those below the first belong to train, then validation, the rest to test.
PART_ENDS = (70, 80)


@dataclass(frozen=True, slots=True)
class LengthRecord:
    """One prompt and the length of its output.

    Attributes:
        custom_id: as in the batch file; "train/..." puts it into that part.
        token_ids: the prompt after the chat template.
        output_tokens: the end-of-text token included, at least 1.
        finish_reason: stop, or length if max_tokens cut it.
        max_tokens: output tokens at most.
    """

    custom_id: str
    token_ids: tuple[int, ...]
    output_tokens: int
    finish_reason: str
    max_tokens: int

    @property
    def was_cut(self) -> bool:
        """Whether the output would have gone on."""
        return self.finish_reason == "length"


@dataclass(frozen=True, slots=True)
class LengthTable:
    """Records of one model.

    Attributes:
        model: its name, as it was given to the engine.
        model_digest: see `model_digest` in model_identity.
        temperature: of all requests; None if they differ.
    """

    model: str
    model_digest: str
    temperature: float | None
    records: tuple[LengthRecord, ...]

    def fingerprint(self) -> str:
        """SHA-256 of the contents, in hexadecimal digits."""
        digest = hashlib.sha256(header_line(self).encode())
        for record in self.records:
            digest.update(record_line(record).encode())
        return digest.hexdigest()

    def part(self, name: str) -> tuple[LengthRecord, ...]:
        """The records of train, validation or test."""
        return part(self.records, name)


def part(records: Sequence[LengthRecord], name: str) -> tuple[LengthRecord, ...]:
    """Records whose custom_id begins with `name`/; by a hash of the prompt if none has a part.

    Equal prompts are in the same part then, whatever their ids.
    """
    assert name in PARTS, name
    prefixes = tuple(f"{one}/" for one in PARTS)
    if any(record.custom_id.startswith(prefixes) for record in records):
        return tuple(one for one in records if one.custom_id.startswith(f"{name}/"))
    return tuple(one for one in records if _hashed_part(one.token_ids) == name)


def _hashed_part(token_ids: Sequence[int]) -> str:
    digest = hashlib.sha256(" ".join(map(str, token_ids)).encode()).digest()
    value = int.from_bytes(digest[:8], "big") % 100
    return PARTS[sum(value >= end for end in PART_ENDS)]


def header_line(table: LengthTable) -> str:
    """The first line of a table's file."""
    values = {
        "tdpipe_lengths": FORMAT_VERSION,
        "model": table.model,
        "model_digest": table.model_digest,
        "temperature": table.temperature,
    }
    return json.dumps(values) + "\n"


def record_line(record: LengthRecord) -> str:
    """One further line of a table's file."""
    return json.dumps(asdict(record)) + "\n"


def write_length_table(path: Path, table: LengthTable) -> None:
    """Write a table. Raises ConfigError if that is not possible."""
    try:
        with path.open("w", encoding="utf-8") as file:
            file.write(header_line(table))
            file.writelines(map(record_line, table.records))
    except OSError as error:
        fix = f"it cannot be written ({error.strerror})"
        raise ConfigError("length_table", str(path), fix) from None


def read_length_table(path: Path) -> LengthTable:
    """Read a table.

    Raises:
        ConfigError: no such file, not a table, of another format, or damaged (with the line).
    """
    try:
        with path.open(encoding="utf-8") as file:
            table = _header(path, file.readline())
            records = tuple(_records(path, file))
    except OSError as error:
        raise ConfigError("length_table", str(path), f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError("length_table", str(path), "it is not text") from None
    return LengthTable(table.model, table.model_digest, table.temperature, records)


def _header(path: Path, line: str) -> LengthTable:
    fix = "not a table of lengths; make one with tdpipe lengths collect"
    try:
        values = json.loads(line)
        version = values["tdpipe_lengths"]
        temperature = values["temperature"]
        table = LengthTable(
            str(values["model"]),
            str(values["model_digest"]),
            None if temperature is None else float(temperature),
            (),
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ConfigError("length_table", str(path), fix) from None
    if version != FORMAT_VERSION:
        fix = f"its format is {version!r}, this version reads {FORMAT_VERSION}; collect again"
        raise ConfigError("length_table", str(path), fix)
    return table


def _records(path: Path, lines: Iterable[str]) -> Iterable[LengthRecord]:
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        try:
            yield _record(json.loads(line))
        except (ValueError, TypeError, KeyError, RecursionError):
            fix = f"line {number} is damaged; mend or delete it"
            raise ConfigError("length_table", str(path), fix) from None


def _record(values: dict[str, Any]) -> LengthRecord:
    record = LengthRecord(
        _checked(values["custom_id"], str),
        tuple(_checked(token, int) for token in _checked(values["token_ids"], list)),
        _checked(values["output_tokens"], int),
        _checked(values["finish_reason"], str),
        _checked(values["max_tokens"], int),
    )
    if not 1 <= record.output_tokens <= record.max_tokens or min(record.token_ids, default=0) < 0:
        raise ValueError(values)
    return record


def _checked(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(value)
    return value
