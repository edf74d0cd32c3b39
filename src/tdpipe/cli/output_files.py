"""Files that commands write beside their results: refused early, written with a clear error."""

from pathlib import Path

from tdpipe.core.errors import ConfigError


def check_can_write(field: str, path: str) -> None:
    """Refuse an output file before the work is done for it.

    Raises:
        ConfigError: it is a folder, or its folder cannot be made or written to.
    """
    place = Path(path)
    if place.is_dir():
        raise ConfigError(field, path, "it is a folder; name a file")
    make_folder(field, place.parent)


def write_text(field: str, path: str, text: str) -> None:
    """Write an output file.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(field, path, f"cannot be written ({error.strerror})") from None


def make_folder(field: str, folder: Path) -> None:
    """Make an output folder, and those above it, if it is not there.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fix = f"the folder cannot be made ({error.strerror}); name another"
        raise ConfigError(field, str(folder), fix) from None
