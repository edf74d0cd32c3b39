"""Progress of a batch run: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from tdpipe.outputs import Progress

PLAIN_INTERVAL_S = 10.0


def describe(progress: Progress) -> str:
    """Throughput, phase and KV use in one line."""
    rate = progress.num_output_tokens / progress.elapsed_s if progress.elapsed_s > 0 else 0.0
    phase, kv_used = progress.phase or "starting", progress.kv_used_share
    return f"{rate:.1f} output tokens/s, {phase} phase, KV cache {kv_used:.0%} used"


class ProgressView:
    """Shows Progress on standard error."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar: Bar | None = None
        self._next_line_s = 0.0
        self._created_s = time.monotonic()
        self._answering = False

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar = Bar(
                MofNCompleteColumn(),
                BarColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.description}"),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            self._bar.add_task("starting stages", total=None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, progress: Progress) -> None:
        """Show a moment of the run; plain lines come at most every PLAIN_INTERVAL_S."""
        if progress.num_output_tokens and not self._answering:
            self._answering = True
            self.say(f"first token {time.monotonic() - self._created_s:.1f} s after the start")
        if self._bar is not None:
            self._bar.update(
                self._bar.task_ids[0],
                completed=progress.num_finished,
                total=progress.num_requests,
                description=describe(progress),
            )
        elif progress.elapsed_s >= self._next_line_s:
            self._next_line_s = progress.elapsed_s + PLAIN_INTERVAL_S
            done = f"{progress.num_finished}/{progress.num_requests} requests"
            print(f"{progress.elapsed_s:7.1f} s  {done}, {describe(progress)}", file=sys.stderr)

    def say(self, message: str) -> None:
        """A line of its own on standard error."""
        if self._bar is not None:
            self._bar.console.print(message, markup=False, highlight=False)
        else:
            print(message, file=sys.stderr)
