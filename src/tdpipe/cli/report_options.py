"""What a run tells beside its results: `--report`, `--metrics`, `--metrics-port`, `--log-file`."""

import argparse
import json
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tdpipe.cli.output_files import check_can_write, write_text
from tdpipe.core.errors import ConfigError, StageFailed
from tdpipe.outputs import Progress

if TYPE_CHECKING:
    from tdpipe.cli.event_log import EventLog
    from tdpipe.cli.metrics_server import MetricsServer
    from tdpipe.cli.progress_view import ProgressView
    from tdpipe.llm import LLM
    from tdpipe.replicas.replica_pool import ReplicaPool

FILES = ("report", "metrics", "log_file")


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group("report")
    add = group.add_argument
    add("--report", help="write a page of the run here: charts, decisions, bound", metavar="FILE")
    add("--metrics", help="write all figures of the run as JSON here", metavar="FILE")
    add(
        "--metrics-port",
        type=int,
        help="serve Prometheus metrics on this machine while the run goes on; 0 takes a free port",
        metavar="PORT",
    )
    add("--log-file", help="write what happens as JSON lines here", metavar="FILE")


class RunReports:
    """Tells of one run in all the ways that were asked for.

    Files are written when the block ends, also when the run ends badly, with what there is then.

    Raises:
        ConfigError: a file cannot be written, or the port not be listened on.
    """

    def __init__(self, arguments: argparse.Namespace, view: "ProgressView") -> None:
        for name in FILES:
            if getattr(arguments, name):
                check_can_write(name, getattr(arguments, name))
        self._arguments = arguments
        self._view = view
        self.written: list[str] = []  # lines that name the files
        self._failure = ""
        self._llm: LLM | ReplicaPool | None = None
        self._open = ExitStack()
        self._log: EventLog | None = None
        self._server: MetricsServer | None = None

    def __enter__(self) -> Self:
        arguments = self._arguments
        with ExitStack() as opened:
            if arguments.log_file:
                from tdpipe.cli.event_log import EventLog

                self._log = opened.enter_context(EventLog(Path(arguments.log_file)))
            if arguments.metrics_port is not None:
                from tdpipe.cli.metrics_server import MetricsServer

                server = MetricsServer(arguments.metrics_port, arguments.model)
                self._server = opened.enter_context(server)
                self.say(f"metrics on http://127.0.0.1:{server.port}/metrics")
            self._open = opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._open:
            failure = self._failure if error is None else _told(error)
            try:
                self._write_files(failure)
            except ConfigError as refused:
                if error is None:
                    raise
                self.say(f"warning: {refused}")  # what ended the run matters more

    def begin(self, llm: "LLM | ReplicaPool") -> None:
        """The run is about to begin on this engine."""
        self._llm = llm
        self._event("start", model=self._arguments.model, settings=llm.config.recorded())

    def show(self, progress: Progress) -> None:
        """Show a moment of the run."""
        self._view.show(progress)
        if self._log is not None:
            self._log.show(progress)
        if self._server is not None:
            self._server.show(progress)

    def say(self, message: str) -> None:
        """A line for who watches, and for the log."""
        self._view.say(message)
        if self._log is not None:
            self._log.say(message)

    def cut_short(self, reason: str) -> None:
        """The run ended before its time, in good order."""
        self._failure = reason

    # ---- details

    def _write_files(self, failure: str) -> None:
        from tdpipe.reporting.report_page import report_page
        from tdpipe.reporting.run_metrics import run_metrics
        from tdpipe.reporting.summary_fields import summary_fields

        record = self._llm.record() if self._llm is not None else None
        figures = summary_fields(record.summary) if record is not None else self._pool_figures()
        self._event("failed" if failure else "end", error=failure or None, summary=figures)
        if record is not None:
            if self._arguments.metrics:
                self._write("metrics", json.dumps(run_metrics(record, failure), indent=2))
            if self._arguments.report:
                self._write("report", report_page(record, failure))
        elif self._arguments.metrics or self._arguments.report:
            self.say("no batch was run: there is nothing to report")

    def _pool_figures(self) -> dict[str, Any] | None:
        """Those of several engines, which leave no record here."""
        from tdpipe.replicas.replica_pool import ReplicaPool

        return self._llm.figures() if isinstance(self._llm, ReplicaPool) else None

    def _write(self, name: str, text: str) -> None:
        path = getattr(self._arguments, name)
        write_text(name, path, text)
        self.written.append(f"{name:<13}{path}")

    def _event(self, name: str, **figures: Any) -> None:
        if self._log is not None:
            self._log.event(name, **figures)


def _told(error: BaseException) -> str:
    if isinstance(error, StageFailed):
        return str(error).splitlines()[0]
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return str(error) or type(error).__name__
