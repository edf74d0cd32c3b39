"""What must be known of a whole batch file before it runs: its digest, and where each id stands.

One pass over the file; it keeps 25 bytes a line, so that a million lines take as many megabytes.
"""

import hashlib
from array import array
from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tdpipe.batch.batch_file import MAX_LINE_BYTES

NO_ID = 0


class _Identified(msgspec.Struct):
    """The one field that the index needs; the rest is checked for being JSON and dropped."""

    custom_id: Any = None


_decode = msgspec.json.Decoder(_Identified).decode


class InputIndex:
    """The lines of one input.

    Ids are kept as digests of 64 bits: among a million of them two are equal by chance in one of
    30 million files.

    Attributes:
        sha256: of the input's bytes, hexadecimal.
        num_lines: lines that are not blank.
        last_line: number of the last line; lines count from 1.
    """

    def __init__(self, sha256: str, num_lines: int, ids: NDArray[np.uint64]) -> None:
        self.sha256 = sha256
        self.num_lines = num_lines
        self.last_line = len(ids)
        # Stable: of equal ids the first line comes first.
        self._order = np.argsort(ids, kind="stable")
        self._sorted = ids[self._order]

    def first_use(self, custom_id: str) -> int:
        """Number of the first line with this id; 0 if there is none."""
        wanted = np.uint64(digest_of(custom_id))
        place = int(np.searchsorted(self._sorted, wanted))
        if place == len(self._sorted) or self._sorted[place] != wanted:
            return 0
        return int(self._order[place]) + 1


def index_lines(raw_lines: Iterable[bytes]) -> InputIndex:
    """Read all lines once."""
    digest, num_lines, ids = hashlib.sha256(), 0, array("Q")
    for raw in raw_lines:
        digest.update(raw)
        num_lines += bool(raw.strip())
        ids.append(_id_of(raw))
    return InputIndex(digest.hexdigest(), num_lines, np.array(ids, dtype=np.uint64))


def digest_of(custom_id: str) -> int:
    """64 bits that stand for an id, never NO_ID."""
    digest = hashlib.blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def _id_of(raw: bytes) -> int:
    if len(raw) > MAX_LINE_BYTES:
        return NO_ID
    try:
        custom_id = _decode(raw).custom_id
    except (msgspec.DecodeError, ValueError, RecursionError):
        return NO_ID  # the line becomes an error line when it is read to run
    return digest_of(custom_id) if isinstance(custom_id, str) and custom_id else NO_ID
