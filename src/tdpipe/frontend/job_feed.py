"""Jobs that another thread hands over one by one, while the run that reads them is on."""

from collections.abc import Iterator
from queue import SimpleQueue

from tdpipe.outputs import Job


class JobFeed:
    """An iterable of jobs that waits for the next one; `put` and `end` are for any thread."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Job | None] = SimpleQueue()

    def put(self, job: Job) -> None:
        """Hand over a job."""
        self._queue.put(job)

    def end(self) -> None:
        """Say that no more will come; may be called twice."""
        self._queue.put(None)

    def __iter__(self) -> Iterator[Job]:
        while (job := self._queue.get()) is not None:
            yield job
