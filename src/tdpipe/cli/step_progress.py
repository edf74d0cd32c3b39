"""Steps of a long command on standard error: a bar on a terminal, a plain line each elsewhere."""

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class StepProgress:
    """Shows which step a command is at.

    Args:
        num_steps: how many there will be; None where that is not known.
    """

    def __init__(self, num_steps: int | None = None) -> None:
        console = Console(stderr=True)
        self._num_steps = num_steps
        self._done = -1
        self._bar: Progress | None = None
        if console.is_terminal:
            count = [MofNCompleteColumn()] if num_steps is not None else []
            text = TextColumn("{task.description}", markup=False)
            self._bar = Progress(
                BarColumn(), *count, TimeElapsedColumn(), text, console=console, transient=True
            )

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
            self._bar.add_task("", total=self._num_steps)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, text: str) -> None:
        """Begin the next step."""
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done, description=text)
        else:
            count = f"{self._done + 1}/{self._num_steps} " if self._num_steps is not None else ""
            print(f"simulating {count}{text}", file=sys.stderr)
