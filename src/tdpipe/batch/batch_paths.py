"""Opens the input and output of a batch run, before anything costly starts."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tdpipe.core.errors import ConfigError


@contextmanager
def open_input(path: str) -> Iterator[IO[bytes]]:
    """The input as bytes, seekable; "-" is standard input.

    A stream is copied to a temporary file first: ids must be known before the first line runs.

    Raises:
        ConfigError: it is missing, a folder, not readable, or empty.
    """
    if path == "-":
        with _spooled(sys.stdin.buffer) as spool:
            yield spool
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
        if file.seekable():
            yield file
        else:
            with _spooled(file) as spool:
                yield spool


def check_output(path: str, input_path: str) -> None:
    """Refuse an output that can be none, before anything is started; "-" is standard output.

    Raises:
        ConfigError: it is the input or a folder.
    """
    if path == "-":
        return
    place = Path(path)
    if place.is_dir():
        raise ConfigError("output", path, "it is a folder; give a file")
    if input_path != "-" and place.exists() and place.samefile(input_path):
        raise ConfigError("output", path, "it is the input; give another file")


@contextmanager
def open_output(path: str, input_path: str) -> Iterator[IO[str]]:
    """The output as text, emptied; "-" is standard output.

    Raises:
        ConfigError: it is the input, a folder, or not writable.
    """
    check_output(path, input_path)
    if path == "-":
        yield sys.stdout
        return
    place = Path(path)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        file = place.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigError("output", path, f"cannot be written ({error.strerror})") from None
    with file:
        yield file


@contextmanager
def _spooled(stream: IO[bytes]) -> Iterator[IO[bytes]]:
    """A stream's content in a file that is gone when it is closed."""
    with tempfile.TemporaryFile(prefix="tdpipe-input-") as spool:
        shutil.copyfileobj(stream, spool)
        spool.seek(0)
        yield spool
