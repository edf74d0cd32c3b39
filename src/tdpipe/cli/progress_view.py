"""Progress of a batch run: a live view on a terminal, a plain line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live

from tdpipe.cli.live_view import LiveView, time_text
from tdpipe.outputs import Progress

PLAIN_INTERVAL_S = 10.0
REDRAWS_PER_S = 4


def describe(progress: Progress) -> str:
    """A moment in one line."""
    phase, kv_used = progress.phase or "starting", progress.kv_used_share
    parts = [
        f"{progress.num_finished}/{progress.num_requests} requests",
        f"{progress.output_tokens_per_s:.1f} output tokens/s",
        f"{phase} phase",
        f"KV cache {kv_used:.0%} used",
    ]
    if progress.left_s is not None:
        parts.append(f"{time_text(progress.left_s)} left")
    if progress.num_failed:
        parts.append(f"{progress.num_failed} errors")
    if progress.num_restarts:
        parts.append(f"{progress.num_restarts} restarts")
    return ", ".join(parts)


class ProgressView:
    """Shows Progress on standard error."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._view = LiveView()
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(
                self._view, console=console, transient=True, refresh_per_second=REDRAWS_PER_S
            )
        self._next_line_s = 0.0
        self._created_s = time.monotonic()
        self._answering = False

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, progress: Progress) -> None:
        """Show a moment of the run; plain lines come at most every PLAIN_INTERVAL_S."""
        if progress.num_output_tokens and not self._answering:
            self._answering = True
            self.say(f"first token {time.monotonic() - self._created_s:.1f} s after the start")
        self._view.progress = progress
        if self._live is None and progress.elapsed_s >= self._next_line_s:
            self._next_line_s = progress.elapsed_s + PLAIN_INTERVAL_S
            print(f"{progress.elapsed_s:7.1f} s  {describe(progress)}", file=sys.stderr)

    def say(self, message: str) -> None:
        """A line of its own on standard error."""
        if self._live is not None:
            self._live.console.print(message, markup=False, highlight=False)
        else:
            print(message, file=sys.stderr)
