"""Links between ranks as `tdpipe profile --links` measured them, in a JSON file."""

import json
from dataclasses import asdict
from pathlib import Path

from tdpipe.core.errors import ConfigError
from tdpipe.cost.measured_links import MeasuredLinks, PairTimes

FORMAT_VERSION = 1


def save_links(path: Path, links: MeasuredLinks) -> None:
    """Write a file of links.

    Raises:
        ConfigError: it cannot be written.
    """
    text = json.dumps({"tdpipe_links": FORMAT_VERSION, **asdict(links)}, indent=1)
    try:
        path.write_text(text + "\n")
    except OSError as error:
        fix = f"it cannot be written ({error.strerror})"
        raise ConfigError("links", str(path), fix) from None


def load_links(path: Path) -> MeasuredLinks:
    """Read a file of links.

    Raises:
        ConfigError: there is none, or it is no such file.
    """
    try:
        values = json.loads(path.read_text())
        if values.pop("tdpipe_links") != FORMAT_VERSION:
            raise ValueError("another format")
        pairs = tuple(PairTimes(**pair) for pair in values.pop("pairs"))
        return MeasuredLinks(pairs=pairs, **values)
    except OSError as error:
        fix = f"it cannot be read ({error.strerror})"
        raise ConfigError("links", str(path), fix) from None
    except (ValueError, TypeError, KeyError, AttributeError):
        fix = f"not links of format {FORMAT_VERSION}; make them with tdpipe profile --links"
        raise ConfigError("links", str(path), fix) from None
