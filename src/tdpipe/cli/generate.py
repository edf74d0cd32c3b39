"""`tdpipe generate`: one prompt, its answer streamed."""

import argparse
import sys

from tdpipe.cli.engine_options import add_engine_options, engine_settings


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("generate", help="answer one prompt, streaming")
    parser.add_argument("prompt")
    parser.add_argument("--no-chat", action="store_true", help="continue the text as it is")
    group = parser.add_argument_group("sampling")
    group.add_argument("--max-tokens", type=int, default=256)
    group.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    group.add_argument("--top-k", type=int, default=0)
    group.add_argument("--top-p", type=float, default=1.0)
    group.add_argument("--min-p", type=float, default=0.0)
    group.add_argument("--seed", type=int)
    group.add_argument("--stop", action="append", default=[], help="stop string; may be repeated")
    add_engine_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Stream the answer; returns the exit status."""
    from tdpipe.core.sampling_params import SamplingParams
    from tdpipe.llm import LLM

    params = SamplingParams(
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        seed=arguments.seed,
        stop=tuple(arguments.stop),
    )
    prompt = arguments.prompt
    if not arguments.no_chat:
        prompt = [{"role": "user", "content": arguments.prompt}]
    with LLM(arguments.model, **engine_settings(arguments)) as llm:
        for update in llm.stream(prompt, params):
            print(update.text_delta, end="", flush=True)
        print()
        summary = llm.summary()
    rate = f"{summary.output_tokens_per_s:.1f} output tokens/s"
    print(f"[{summary.output_tokens} tokens, {rate}]", file=sys.stderr)
    return 0
