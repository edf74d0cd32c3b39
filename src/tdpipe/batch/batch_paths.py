"""Opens the input and output of a batch run, before anything costly starts."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tdpipe.core.errors import ConfigError


@contextmanager
def open_input(path: str) -> Iterator[IO[bytes]]:
    """The input as bytes; "-" is standard input.

    Raises:
        ConfigError: it is missing, a folder, not readable, or empty.
    """
    if path == "-":
        yield sys.stdin.buffer
        return
    place = Path(path)
    if not place.exists():
        raise ConfigError("input", path, "there is no such file")
    if place.is_dir():
        raise ConfigError("input", path, "it is a folder; give a .jsonl file")
    if place.is_file() and place.stat().st_size == 0:
        raise ConfigError("input", path, "the file is empty; give one request a line")
    try:
        file = place.open("rb")
    except OSError as error:
        raise ConfigError("input", path, f"cannot be read ({error.strerror})") from None
    with file:
        yield file


@contextmanager
def open_output(path: str, input_path: str) -> Iterator[IO[str]]:
    """The output as text, emptied; "-" is standard output.

    Raises:
        ConfigError: it is the input, a folder, or not writable.
    """
    if path == "-":
        yield sys.stdout
        return
    place = Path(path)
    if place.is_dir():
        raise ConfigError("output", path, "it is a folder; give a file")
    if input_path != "-" and place.exists() and place.samefile(input_path):
        raise ConfigError("output", path, "it is the input; give another file")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        file = place.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigError("output", path, f"cannot be written ({error.strerror})") from None
    with file:
        yield file
