"""The output of a batch run while it grows: one line a result, durable, continued after a stop.

Results are appended as they finish and forced to the disk at intervals. Beside the output stands
`<output>.run.json`, which says what the run is of; the same command given again finds there that it
may go on, drops a last line that a crash has torn, and leaves out what is finished.
"""

import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec

from tdpipe.batch.finished_lines import FinishedLines, read_finished
from tdpipe.batch.input_index import InputIndex
from tdpipe.core.errors import ConfigError

# Raised when lines or what is written beside them change their meaning.
FORMAT_VERSION = 1
# A crash of the machine loses no more than this; a crash of the process loses nothing.
SYNC_INTERVAL_S = 1.0

_encode = msgspec.json.Encoder().encode


class Journal:
    """Appends result lines; made by `open_journal`, and kept by one thread.

    Attributes:
        finished: the lines that were finished when it was opened.
    """

    def __init__(self, file: IO[bytes], finished: FinishedLines) -> None:
        self.finished = finished
        self._file = file
        self._synced_s = time.monotonic()

    def append(self, record: dict[str, Any]) -> None:
        """Write a result; it is in the system's hands when this returns.

        Raises:
            ConfigError: the disk is full, or the file can no longer be written.
        """
        try:
            self._file.write(_encode(record) + b"\n")
            self._file.flush()
        except OSError as error:
            fix = f"cannot be written ({error.strerror}); what came before it is kept"
            raise ConfigError("output", getattr(self._file, "name", "-"), fix) from None
        if time.monotonic() - self._synced_s >= SYNC_INTERVAL_S:
            self.sync()

    def sync(self) -> None:
        """Force what was written to the disk; streams have none."""
        with contextlib.suppress(OSError, ValueError):
            os.fsync(self._file.fileno())
        self._synced_s = time.monotonic()


@contextmanager
def open_journal(
    path: str, index: InputIndex, settings: Mapping[str, object], overwrite: bool
) -> Iterator[Journal]:
    """The output, continued or new; "-" is standard output. What is no file is never continued.

    Args:
        settings: what results depend on beside the input, such as the model; plain values.

    Raises:
        ConfigError: the output is of another run (says what differs), in use by another process,
            damaged, or not writable.
    """
    if path == "-":
        yield Journal(sys.stdout.buffer, FinishedLines(index.last_line))
        return
    place = Path(path)
    if place.exists() and not place.is_file():
        with place.open("wb", buffering=0) as device:
            yield Journal(device, FinishedLines(index.last_line))
        return
    run = {"format": FORMAT_VERSION, "input_sha256": index.sha256, "settings": dict(settings)}
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        file = place.open("r+b" if place.exists() else "x+b")
    except OSError as error:
        raise ConfigError("output", path, f"cannot be written ({error.strerror})") from None
    with file:
        _lock(file, path)
        if overwrite:
            file.truncate(0)
        finished = FinishedLines(index.last_line)
        if file.seek(0, os.SEEK_END):
            _check_same_run(place, run)
            finished = read_finished(place, index)
        else:
            run_note(place).write_text(json.dumps(run, indent=1) + "\n")
        file.truncate(finished.num_bytes)
        file.seek(finished.num_bytes)
        journal = Journal(file, finished)
        try:
            yield journal
        finally:
            journal.sync()


def run_note(output: Path) -> Path:
    """The file that says what an output is of."""
    return output.with_name(output.name + ".run.json")


def _lock(file: IO[bytes], path: str) -> None:
    """Two runs must not write one output; the lock goes with the process, however it ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fix = "another run writes it now: wait for its end, or give another file"
        raise ConfigError("output", path, fix) from None
    except OSError:
        return  # a file system without locks


def _check_same_run(output: Path, run: dict[str, Any]) -> None:
    note = run_note(output)
    try:
        difference = _difference(json.loads(note.read_text()), run)
    except (OSError, ValueError):
        difference = f"{note.name}, which says of what, is missing or damaged"
    if difference is not None:
        fix = f"it holds results of another run ({difference}): give another file, or --overwrite"
        raise ConfigError("output", str(output), fix)


def _difference(before: object, run: dict[str, Any]) -> str | None:
    """What is different in the earlier run, in words; None if nothing is."""
    if not isinstance(before, dict) or before.get("format") != run["format"]:
        return "written by another version"
    if before.get("input_sha256") != run["input_sha256"]:
        return "another input"
    earlier, settings = before.get("settings"), run["settings"]
    earlier = earlier if isinstance(earlier, dict) else {}
    for name in sorted(settings.keys() | earlier.keys()):
        if earlier.get(name) != settings.get(name):
            return f"{name} was {earlier.get(name)!r} and is now {settings.get(name)!r}"
    return None
