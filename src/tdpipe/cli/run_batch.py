"""`tdpipe run-batch`: an OpenAI batch file through the pipeline."""

import argparse
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tdpipe.cli.engine_options import add_engine_options
from tdpipe.cli.replica_options import (
    add_replica_options,
    check_replica_options,
    open_engine,
    timeline_line,
)
from tdpipe.cli.report_options import RunReports, add_report_options
from tdpipe.core.errors import InputRejected

if TYPE_CHECKING:
    from tdpipe.batch.batch_input import BatchInput
    from tdpipe.batch.batch_job import BatchOutcome
    from tdpipe.cli.progress_view import ProgressView
    from tdpipe.llm import LLM
    from tdpipe.replicas.replica_pool import ReplicaPool

EXIT_CODES = """\
The same command given again goes on where a run was left: finished lines are kept and left out.

exit status:
  0  every line succeeded
  1  the run ended, some lines became error lines
  2  the run could not start: a setting or a file cannot be used, or --strict found bad lines
  3  stages failed more often than --max-restarts allows, or could not start, with --replicas those
     of every replica; what was finished is in the output
  4  more lines failed than --max-errors allows
  130  interrupted; lines that were not finished are left for the next run
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "run-batch",
        help="run a file of requests in the OpenAI batch format",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-i", "--input", required=True, help="requests, JSON lines; - is stdin")
    parser.add_argument("-o", "--output", required=True, help="results; - is stdout")
    parser.add_argument(
        "--show", type=int, default=0, help="print the first N answers", metavar="N"
    )
    parser.add_argument(
        "--length-hints",
        help="results of an earlier run or another model: their lengths by custom_id",
        metavar="FILE",
    )
    _add_output_options(parser)
    add_engine_options(parser)
    add_replica_options(parser)
    add_report_options(parser)
    parser.set_defaults(run=run)


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("results and errors")
    group.add_argument(
        "--overwrite", action="store_true", help="start anew: drop what the output holds"
    )
    group.add_argument(
        "--ordered", action="store_true", help="put the finished output in order of the input"
    )
    group.add_argument(
        "--strict", action="store_true", help="list all bad lines and run nothing if there are any"
    )
    group.add_argument(
        "--max-errors", type=int, help="end the run when more than N lines failed", metavar="N"
    )
    group.add_argument(
        "--grace",
        type=float,
        default=30.0,
        help="seconds in which Ctrl-C or SIGTERM lets decoding requests finish (default 30)",
        metavar="SECONDS",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the batch; returns the exit status."""
    from tdpipe.batch.batch_input import BatchInput
    from tdpipe.batch.batch_job import BatchJob
    from tdpipe.batch.batch_paths import check_output, open_input
    from tdpipe.batch.journal import open_journal
    from tdpipe.batch.length_hints import read_length_hints
    from tdpipe.batch.line_progress import in_lines
    from tdpipe.cli.interruption import Interruption
    from tdpipe.cli.progress_view import ProgressView

    answers: list[tuple[str, str]] = []

    def keep_answer(custom_id: str, text: str) -> None:
        if len(answers) < arguments.show:
            answers.append((custom_id, text))

    check_replica_options(arguments)
    hints = read_length_hints(arguments.length_hints) if arguments.length_hints else None
    check_output(arguments.output, arguments.input)
    with ExitStack() as stack:
        batch = BatchInput(stack.enter_context(open_input(arguments.input)))
        view = stack.enter_context(ProgressView())
        reports = stack.enter_context(RunReports(arguments, view))
        llm = open_engine(arguments)
        stack.enter_context(llm)
        interruption = Interruption(llm.finish_early, arguments.grace, view.say)
        stack.enter_context(interruption)
        settings, index = llm.result_settings(), batch.index
        output, overwrite = arguments.output, arguments.overwrite
        journal = stack.enter_context(open_journal(output, index, settings, overwrite))
        reports.begin(llm)
        reports.say(_layout_line(arguments, llm))
        if len(journal.finished):
            reports.say(f"{len(journal.finished)} of {index.num_lines} lines are finished already")
        if arguments.strict:
            _refuse_bad_lines(batch, llm, view)
        job = BatchJob(
            arguments.model,
            lambda text: reports.say(f"warning: {text}"),
            keep_answer,
            hints,
            arguments.max_errors,
        )
        outcome = job.run(
            llm, batch, journal, lambda moment: reports.show(in_lines(moment, job.outcome))
        )
        if outcome.num_left:
            reports.cut_short(f"interrupted, {outcome.num_left} lines are left")
        summary = str(llm.summary()) if outcome.num_earlier < index.num_lines else ""
    _put_in_order(arguments, batch, outcome)
    _say_results(arguments, answers, summary, outcome, reports.written)
    if interruption.happened:
        return 130
    return 1 if outcome.num_failed else 0


def _layout_line(arguments: argparse.Namespace, llm: "LLM | ReplicaPool") -> str:
    layers = ",".join(map(str, llm.partition))
    each = f"{len(llm.partition)} stages of {layers} layers"
    return f"{arguments.model}: " + (
        f"{arguments.replicas} replicas, each {each}" if arguments.replicas > 1 else each
    )


def _refuse_bad_lines(batch: "BatchInput", llm: "LLM | ReplicaPool", view: "ProgressView") -> None:
    """List every bad line. Raises InputRejected if there is one."""
    from tdpipe.batch.strict_check import bad_lines

    num_bad = 0
    for bad in bad_lines(batch.lines(), llm.check):
        num_bad += 1
        view.say(f"line {bad.number}: {bad.error}")
    if num_bad:
        raise InputRejected(num_bad, batch.index.num_lines)


def _put_in_order(
    arguments: argparse.Namespace, batch: "BatchInput", outcome: "BatchOutcome"
) -> None:
    from pathlib import Path

    from tdpipe.batch.ordered_output import order_output

    if arguments.ordered and arguments.output != "-" and not outcome.num_left:
        order_output(Path(arguments.output), batch.index)


def _say_results(
    arguments: argparse.Namespace,
    answers: list[tuple[str, str]],
    summary: str,
    outcome: "BatchOutcome",
    written: list[str],
) -> None:
    human = sys.stderr if arguments.output == "-" else sys.stdout
    for custom_id, text in answers:
        print(f"--- {custom_id}\n{text.strip()}\n", file=human)
    if summary:
        print(summary, file=human)
    print(f"results      {arguments.output}", file=human)
    if outcome.num_earlier:
        print(f"             {outcome.num_earlier} lines are from earlier runs", file=human)
    if arguments.timeline and summary:
        print(timeline_line(arguments), file=human)
    for line in written:
        print(line, file=human)
    if outcome.num_failed:
        print(f"{outcome.num_failed} lines failed: see their error in the results", file=human)
    if outcome.num_left:
        left = f"{outcome.num_left} lines are left: the same command goes on with them"
        print(left, file=human)
