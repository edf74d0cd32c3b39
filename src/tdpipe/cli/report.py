"""`tdpipe report`: a recorded timeline as a page to read."""

import argparse
from pathlib import Path

from tdpipe.cli.output_files import check_can_write, write_text


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "report",
        help="make report.html of a timeline that run-batch or simulate recorded",
        description="Make a self-contained page of a run: throughput and KV cache over time, "
        "stages and bubbles, decisions, forecast against truth, share of the bound.",
    )
    parser.add_argument("timeline", help="file of --timeline")
    parser.add_argument(
        "-o", "--output", default="report.html", help="default report.html", metavar="FILE"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the report; returns the exit status."""
    from tdpipe.reporting.report_page import report_page
    from tdpipe.reporting.timeline_file import read_timeline

    check_can_write("output", arguments.output)
    record = read_timeline(Path(arguments.timeline))
    write_text("output", arguments.output, report_page(record))
    print(f"report       {arguments.output}")
    return 0
