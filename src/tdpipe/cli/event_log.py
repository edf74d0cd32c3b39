"""`--log-file`: what a run and its parts say, one JSON object a line.

Every line has "time" (UTC), "level", "logger" and "message"; events of a run have "event" and its
figures beside them. What is logged still reaches whoever else listens.
"""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tdpipe.core.errors import ConfigError
from tdpipe.outputs import Progress

PROGRESS_INTERVAL_S = 10.0
ROOT = logging.getLogger("tdpipe")
RUN = logging.getLogger("tdpipe.run")


class JsonLines(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; an exception's traceback is a field of it."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "figures", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class EventLog:
    """Writes the file while it is open.

    Raises:
        ConfigError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handler = logging.FileHandler(path, encoding="utf-8")
        except OSError as error:
            fix = f"cannot be written ({error.strerror}); name another file"
            raise ConfigError("log_file", str(path), fix) from None
        self._handler.setFormatter(JsonLines())
        self._level = ROOT.level
        self._warnings = _as_without_a_file()
        self._next_s = 0.0

    def __enter__(self) -> Self:
        ROOT.addHandler(self._handler)
        ROOT.addHandler(self._warnings)
        ROOT.setLevel(min(logging.INFO, ROOT.getEffectiveLevel()))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        ROOT.removeHandler(self._handler)
        ROOT.removeHandler(self._warnings)
        ROOT.setLevel(self._level)
        self._handler.close()

    def event(self, name: str, **figures: Any) -> None:
        """Write an event of the run."""
        RUN.info(name, extra={"figures": {"event": name, **figures}})

    def say(self, message: str) -> None:
        """Write what is said to who watches."""
        RUN.info(message, extra={"figures": {"event": "message"}})

    def show(self, progress: Progress) -> None:
        """Write a moment now and then."""
        if progress.elapsed_s < self._next_s:
            return
        self._next_s = progress.elapsed_s + PROGRESS_INTERVAL_S
        self.event(
            "progress",
            elapsed_s=round(progress.elapsed_s, 3),
            phase=progress.phase,
            num_finished=progress.num_finished,
            num_requests=progress.num_requests,
            num_failed=progress.num_failed,
            num_output_tokens=progress.num_output_tokens,
            recent_tokens_per_s=round(progress.recent_tokens_per_s, 2),
            kv_used_share=round(progress.kv_used_share, 4),
            num_preemptions=progress.num_preemptions,
            num_restarts=progress.num_restarts,
            left_s=None if progress.left_s is None else round(progress.left_s, 1),
        )


def _as_without_a_file() -> logging.Handler:
    """Keeps warnings on standard error: logging itself stops that once there is a handler."""
    others = ROOT.handlers or logging.getLogger().handlers
    return logging.NullHandler() if others or not logging.lastResort else logging.lastResort
