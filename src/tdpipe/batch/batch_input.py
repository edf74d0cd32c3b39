"""A batch file that is read twice: once to know its ids, once to run it, line by line."""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import IO

from tdpipe.batch.batch_file import BadLine, BatchLine, raw_lines, read_lines
from tdpipe.batch.input_index import InputIndex, index_lines


class BatchInput:
    """The lines of a seekable file; the file stays the caller's to close."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    @cached_property
    def index(self) -> InputIndex:
        """Ids and digest of the whole file; read at the first use."""
        self._file.seek(0)
        return index_lines(raw_lines(self._file))

    def lines(
        self, is_done: Callable[[int], bool] = lambda number: False
    ) -> Iterator[BatchLine | BadLine]:
        """The lines that are not done, from the beginning, each well or ill by itself."""
        first_use = self.index.first_use
        self._file.seek(0)
        yield from read_lines(raw_lines(self._file), first_use, is_done)
