"""`tdpipe lengths`: learns from a model's own outputs how long its outputs will be."""

import argparse

from tdpipe.cli.engine_options import add_engine_options

EXAMPLE = """\
example:
  tdpipe lengths collect -i prompts.jsonl -o table.jsonl
  tdpipe lengths train -i table.jsonl
  tdpipe lengths evaluate -i table.jsonl

collect runs the prompts (or takes the results of an earlier run-batch), train learns and keeps the
predictor in the cache folder ($TDPIPE_CACHE), where run-batch finds it. A custom_id that begins
with train/, validation/ or test/ puts its prompt into that part; without any such, a hash of each
prompt does (70, 10 and 20 %).
"""
KINDS_HELP = (
    "text (default): from the prompt's tokens; encoder: from a sentence encoder's embedding, as in "
    "the paper; hidden: text, and again from the model's own state after the prefill"
)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command and its four subcommands to the parser."""
    parser = commands.add_parser(
        "lengths",
        help="learn how long a model's outputs will be",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_collect(actions)
    _add_train(actions)
    _add_evaluate(actions)
    _add_predict(actions)


def _add_collect(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = actions.add_parser("collect", help="prompts and the lengths of their outputs")
    parser.add_argument("-i", "--input", required=True, help="requests, JSON lines; - is stdin")
    parser.add_argument("-o", "--output", required=True, help="the table; - is stdout")
    parser.add_argument(
        "--results",
        help="of an earlier run-batch on this input: nothing is run",
        metavar="FILE",
    )
    add_engine_options(parser)
    parser.set_defaults(run=run_collect)


def _add_train(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = actions.add_parser("train", help="a predictor from a table of lengths")
    _add_table_options(parser)
    parser.add_argument("--kind", default="text", help=KINDS_HELP)
    parser.add_argument("-o", "--output", help="default: in the cache folder", metavar="FILE")
    parser.add_argument("--encoder", help="a Hugging Face folder; default all-MiniLM-L6-v2")
    parser.set_defaults(run=run_train)


def _add_evaluate(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = actions.add_parser("evaluate", help="how good predictors are on the test part")
    _add_table_options(parser)
    parser.add_argument(
        "--predictor",
        action="append",
        default=[],
        help="may be given again; default: the model's in the cache folder",
        metavar="FILE",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.set_defaults(run=run_evaluate)


def _add_predict(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = actions.add_parser("predict", help="the forecast for each request of a file")
    parser.add_argument("-i", "--input", required=True, help="requests, JSON lines; - is stdin")
    parser.add_argument("--predictor", required=True, metavar="FILE")
    parser.add_argument("--model", help="default: the one the predictor was trained for")
    parser.set_defaults(run=run_predict)


def _add_table_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-i", "--input", required=True, help="a table of lengths, JSON lines")
    parser.add_argument("--model", help="default: the one the table names")


def run_collect(arguments: argparse.Namespace) -> int:
    """Collect a table; returns the exit status."""
    from tdpipe.cli.length_collection import collect

    return collect(arguments)


def run_train(arguments: argparse.Namespace) -> int:
    """Train and keep a predictor; returns the exit status."""
    from tdpipe.cli.length_learning import train

    return train(arguments)


def run_evaluate(arguments: argparse.Namespace) -> int:
    """Show predictors' figures; returns the exit status."""
    from tdpipe.cli.length_learning import show_evaluation

    return show_evaluation(arguments)


def run_predict(arguments: argparse.Namespace) -> int:
    """Print forecasts; returns the exit status."""
    from tdpipe.cli.length_collection import predict

    return predict(arguments)
