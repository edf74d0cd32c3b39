"""Links between ranks as `tdpipe profile --links` measured them, in a JSON file."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tdpipe.core.errors import ConfigError
from tdpipe.cost.collectives import Link

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class PairTimes:
    """One direction between two ranks."""

    source: int
    target: int
    bytes_per_s: float
    latency_s: float


@dataclass(frozen=True, slots=True)
class MeasuredLinks:
    """Every ordered pair of ranks, and the all-reduce over all of them.

    Attributes:
        all_reduce_latency_s: of one of its 2 (ranks - 1) steps.
        all_reduce_bytes_per_s: its bus bandwidth, as nccl-tests counts it.
    """

    backend: str
    num_ranks: int
    pairs: tuple[PairTimes, ...]
    all_reduce_latency_s: float
    all_reduce_bytes_per_s: float

    def __post_init__(self) -> None:
        wanted = {(a, b) for a in range(self.num_ranks) for b in range(self.num_ranks) if a != b}
        if self.num_ranks < 2 or {(pair.source, pair.target) for pair in self.pairs} != wanted:
            raise ValueError("not each pair of two ranks or more")
        rates = [pair.bytes_per_s for pair in self.pairs] + [self.all_reduce_bytes_per_s]
        waits = [pair.latency_s for pair in self.pairs] + [self.all_reduce_latency_s]
        if min(rates) <= 0 or min(waits) < 0:
            raise ValueError("a rate or a latency that is none")

    def link(self) -> Link:
        """The slowest pair for stages that hand on: neighbours may be any two."""
        return Link(
            bytes_per_s=min(pair.bytes_per_s for pair in self.pairs),
            latency_s=max(pair.latency_s for pair in self.pairs),
            all_reduce_bytes_per_s=self.all_reduce_bytes_per_s,
            all_reduce_latency_s=self.all_reduce_latency_s,
        )


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
