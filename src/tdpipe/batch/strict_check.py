"""Finds every bad line of an input before anything runs."""

from collections.abc import Callable, Iterable, Iterator

from tdpipe.batch.batch_file import BadLine, BatchLine
from tdpipe.batch.batch_job import jobs_of
from tdpipe.core.errors import TdpipeError
from tdpipe.outputs import Job


def bad_lines(
    lines: Iterable[BatchLine | BadLine], check: Callable[[Job], None]
) -> Iterator[BadLine]:
    """The lines that could not run, in order.

    Args:
        check: raises a TdpipeError for a job that the engine would refuse, as `LLM.check` does.
    """
    for line in lines:
        if isinstance(line, BadLine):
            yield line
            continue
        try:
            for job in jobs_of(line):
                check(job)
        except TdpipeError as error:
            yield BadLine(line.number, line.custom_id, error)
