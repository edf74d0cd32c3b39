"""When a request's text, rather than a token id or a count, ends it."""

from typing import Protocol

from tdpipe.core.request import Request


class StopCondition(Protocol):
    """Asked once after each new output token of a request that has stop strings."""

    def finished(self, request: Request) -> bool:
        """Whether the request's output now contains one of its stop strings."""
        ...

    def forget(self, request_id: int) -> None:
        """Drop what was kept for a request that has ended."""
        ...
