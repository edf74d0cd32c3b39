"""The tdpipe command: picks a subcommand, turns typed errors into one line and an exit status."""

import argparse
import sys
from collections.abc import Sequence

import tdpipe
from tdpipe.cli import doctor, generate, lengths, plan, profile, report, run_batch, simulate
from tdpipe.core.errors import StageFailed, TdpipeError, TooManyErrors


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status (see `tdpipe run-batch --help`)."""
    parser = argparse.ArgumentParser(prog="tdpipe", description=tdpipe.__doc__)
    parser.add_argument("--version", action="version", version=f"tdpipe {tdpipe.__version__}")
    parser.add_argument("--verbose", action="store_true", help="show a failed stage's traceback")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in (run_batch, generate, simulate, plan, profile, lengths, report, doctor):
        command.add_parser(commands)
    arguments = parser.parse_args(argv)
    if not hasattr(arguments, "run"):
        parser.print_help()
        return 0
    try:
        return int(arguments.run(arguments))
    except StageFailed as error:
        shown = str(error) if arguments.verbose else str(error).splitlines()[0]
        print(f"error: {shown}", file=sys.stderr)
        return 3
    except TooManyErrors as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    except TdpipeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
