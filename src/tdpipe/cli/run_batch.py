"""`tdpipe run-batch`: an OpenAI batch file through the pipeline."""

import argparse
import sys

from tdpipe.cli.engine_options import add_engine_options, engine_settings

EXIT_CODES = """\
exit status:
  0  every line succeeded
  1  the run ended, some lines became error lines
  2  the run could not start: a setting or a file cannot be used
  3  a stage failed; what was finished is in the output
  130  interrupted
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
    add_engine_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the batch; returns the exit status."""
    from tdpipe.batch.batch_job import BatchJob
    from tdpipe.batch.batch_paths import open_input, open_output
    from tdpipe.batch.length_hints import read_length_hints
    from tdpipe.cli.progress_view import ProgressView
    from tdpipe.llm import LLM

    answers: list[tuple[str, str]] = []

    def keep_answer(custom_id: str, text: str) -> None:
        if len(answers) < arguments.show:
            answers.append((custom_id, text))

    hints = read_length_hints(arguments.length_hints) if arguments.length_hints else None
    with (
        open_input(arguments.input) as lines,
        open_output(arguments.output, arguments.input) as output,
        ProgressView() as view,
        LLM(arguments.model, **engine_settings(arguments)) as llm,
    ):
        layers = ",".join(map(str, llm.partition))
        view.say(f"{arguments.model}: {len(llm.partition)} stages of {layers} layers")
        job = BatchJob(
            arguments.model, lambda text: view.say(f"warning: {text}"), keep_answer, hints
        )
        outcome = job.run(llm, lines, output, view.show)
        summary = str(llm.summary())
    human = sys.stderr if arguments.output == "-" else sys.stdout
    for custom_id, text in answers:
        print(f"--- {custom_id}\n{text.strip()}\n", file=human)
    print(summary, file=human)
    print(f"results      {arguments.output}", file=human)
    if arguments.timeline:
        print(f"timeline     {arguments.timeline} (open in Perfetto)", file=human)
    if outcome.num_failed:
        print(f"{outcome.num_failed} lines failed: see their error in the results", file=human)
    return 1 if outcome.num_failed else 0
