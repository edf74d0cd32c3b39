"""Profiles as files: CSV tables of a whole model, JSON of a pipeline's measured stages.

A JSON profile says what it was measured on; one of another model, partition or machine, or one
that is damaged, is refused in one line.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from tdpipe.core.errors import ConfigError
from tdpipe.core.model_shape import ModelShape
from tdpipe.cost.profile_table import ProfileTable
from tdpipe.cost.profiled_cost import ProfiledCost, StageProfile

CSV_COLUMNS = ["Total Length", "Execute Time"]
# Raised when the meaning of a field changes, so that older files are measured anew.
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class ProfileKey:
    """What a profile was measured on; times hold for nothing else.

    `model` is for people: a model's speed depends on its `shape`, wherever it lies.
    """

    model: str = field(compare=False)
    shape: ModelShape
    dtype: str
    device: str
    layers: tuple[int, ...]
    threads_per_stage: int
    machine: str
    tensor_parallel_size: int = 1


def read_profile_csv(path: Path) -> ProfileTable:
    """Read a table "Total Length,Execute Time": tokens of a batch, milliseconds.

    Raises:
        ConfigError: no such file, other columns, or a line that is no measurement.
    """
    lines = _text(path).splitlines()
    header = [name.strip() for name in lines[0].split(",")] if lines else []
    if header != CSV_COLUMNS:
        fix = f"give a CSV file whose first line is {','.join(CSV_COLUMNS)}"
        raise ConfigError("profile", str(path), fix)
    tokens, seconds = [], []
    for number, line in enumerate(lines[1:], start=2):
        if line.strip():
            try:
                length, milliseconds = line.split(",")
                tokens.append(int(length))
                seconds.append(float(milliseconds) / 1e3)
            except ValueError:
                fix = f"line {number} of {path}: write tokens,milliseconds"
                raise ConfigError("profile", line, fix) from None
    return ProfileTable(tuple(tokens), tuple(seconds))


def save_profile(path: Path, key: ProfileKey, cost: ProfiledCost) -> None:
    """Write a profile as JSON; the file is there complete or not at all.

    Raises:
        ConfigError: the file cannot be written.
    """
    temporary = Path(f"{path}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(profile_json(key, cost) + "\n")
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        fix = f"it cannot be written ({error.strerror})"
        raise ConfigError("profile", str(path), fix) from None


def profile_json(key: ProfileKey, cost: ProfiledCost) -> str:
    """The text of a profile file."""
    times = asdict(cost)
    del times["num_stages"], times["layers"]  # the key has them
    values = {"tdpipe_profile": FORMAT_VERSION, "key": asdict(key), "cost": times}
    return json.dumps(values, indent=1)


def load_profile(path: Path, expected: ProfileKey | None = None) -> tuple[ProfileKey, ProfiledCost]:
    """Read a JSON profile, and hold it against what it is wanted for.

    Raises:
        ConfigError: no such file, not a profile, damaged, or of something else than `expected`.
    """
    text = _text(path)
    try:
        key, cost = _parsed(json.loads(text))
    except ConfigError as error:
        raise ConfigError("profile", str(path), f"it is damaged: {error}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        fix = f"not a profile of format {FORMAT_VERSION}; make one with tdpipe profile"
        raise ConfigError("profile", str(path), fix) from None
    if expected is not None and key != expected:
        fix = f"it was measured on another {_difference(key, expected)}; run tdpipe profile again"
        raise ConfigError("profile", str(path), fix)
    return key, cost


def _parsed(values: dict[str, Any]) -> tuple[ProfileKey, ProfiledCost]:
    if values["tdpipe_profile"] != FORMAT_VERSION:
        raise ValueError(values["tdpipe_profile"])
    key, cost = dict(values["key"]), dict(values["cost"])
    layers = tuple(int(count) for count in key.pop("layers"))
    shape = ModelShape(**key.pop("shape"))
    stages = tuple(_stage(stage) for stage in cost.pop("stages"))
    profiled = ProfiledCost(stages, layers=layers, **cost)
    return ProfileKey(shape=shape, layers=layers, **key), profiled


def _stage(values: Mapping[str, Any]) -> StageProfile:
    rest = dict(values)
    return StageProfile(_table(rest.pop("dense")), _table(rest.pop("decode")), **rest)


def _table(values: Mapping[str, Any]) -> ProfileTable:
    return ProfileTable(tuple(values["tokens"]), tuple(values["seconds"]))


def _difference(key: ProfileKey, expected: ProfileKey) -> str:
    for one in fields(ProfileKey):
        found, wanted = getattr(key, one.name), getattr(expected, one.name)
        if one.compare and found != wanted:
            name = "model" if one.name == "shape" else one.name
            return name if name == "model" else f"{name} ({found}, not {wanted})"
    return "model"


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        raise ConfigError("profile", str(path), "there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise ConfigError("profile", str(path), f"it cannot be read ({reason})") from None
