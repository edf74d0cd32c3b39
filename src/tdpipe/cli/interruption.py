"""Ctrl-C and SIGTERM in a long run: once ends it in order, twice ends it now."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """While entered, handles the signals; `happened` says whether one came.

    Args:
        finish_early: asks the engine to finish what decodes; False when nothing does.
        say: tells the user.
    """

    def __init__(
        self, finish_early: Callable[[float], bool], grace_s: float, say: Callable[[str], None]
    ) -> None:
        self.happened = False
        self._finish_early = finish_early
        self._grace_s = grace_s
        self._say = say
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_first, self.happened = not self.happened, True
        if not is_first or not self._finish_early(self._grace_s):
            raise KeyboardInterrupt
        self._say(
            f"interrupted: finishing what decodes, {self._grace_s:.0f} s at most; again stops"
        )
