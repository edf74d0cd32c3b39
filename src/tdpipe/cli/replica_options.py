"""`--replicas`: one engine or several, and which options go with several."""

import argparse
from typing import TYPE_CHECKING

from tdpipe.cli.engine_options import engine_settings
from tdpipe.core.errors import ConfigError

if TYPE_CHECKING:
    from tdpipe.llm import LLM
    from tdpipe.replicas.replica_pool import ReplicaPool

# Made of one engine's trace: there is none of several.
OF_ONE_ENGINE = ("report", "metrics")


def add_replica_options(parser: argparse.ArgumentParser) -> None:
    """Add the option."""
    group = parser.add_argument_group("replicas")
    group.add_argument(
        "--replicas",
        type=int,
        default=1,
        help="engines that share the input, each with its own stages, cores or cards (default 1)",
        metavar="N",
    )


def check_replica_options(arguments: argparse.Namespace) -> None:
    """Refuse what several engines do not do. Raises ConfigError."""
    if arguments.replicas < 1:
        raise ConfigError("replicas", arguments.replicas, "use a whole number, 1 or more")
    for name in OF_ONE_ENGINE:
        if arguments.replicas > 1 and getattr(arguments, name):
            fix = "it is of one engine: use --replicas 1, or --timeline, a file for each replica"
            raise ConfigError(name, getattr(arguments, name), fix)


def open_engine(arguments: argparse.Namespace) -> "LLM | ReplicaPool":
    """The engine, or several as one; started, and to be closed."""
    settings = engine_settings(arguments)
    if arguments.replicas == 1:
        from tdpipe.llm import LLM

        return LLM(arguments.model, **settings)
    from tdpipe.replicas.replica_pool import ReplicaPool

    return ReplicaPool(arguments.model, replicas=arguments.replicas, **settings)


def timeline_line(arguments: argparse.Namespace) -> str:
    """Where `--timeline` is found."""
    names = [arguments.timeline]
    if arguments.replicas > 1:
        from tdpipe.replicas.replica_pool import timeline_of

        names = [timeline_of(arguments.timeline, i) for i in range(arguments.replicas)]
    return f"timeline     {', '.join(names)} (open in Perfetto)"
