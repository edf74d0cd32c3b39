"""A moment of a run in lines of its file: the engine knows only the jobs that were read so far."""

from dataclasses import replace

from tdpipe.batch.batch_job import BatchOutcome
from tdpipe.outputs import Progress


def in_lines(progress: Progress, outcome: BatchOutcome) -> Progress:
    """The moment with the counts of the whole file, lines of earlier runs and bad lines included.

    A line that was not read yet is taken to need as much time as one that was.
    """
    unread = outcome.num_lines - outcome.num_earlier - progress.num_requests
    left_s = progress.left_s
    if left_s is not None and unread > 0 and progress.num_requests:
        left_s += unread * (progress.elapsed_s + left_s) / progress.num_requests
    return replace(
        progress,
        num_finished=outcome.num_succeeded + outcome.num_failed,
        num_requests=outcome.num_lines,
        num_failed=outcome.num_failed,
        left_s=left_s,
    )
