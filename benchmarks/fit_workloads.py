"""Fits the tables of tdpipe.simulation.workload_models to data and prints them, ready to paste.

    python benchmarks/fit_workloads.py --data DIR

DIR holds length_tables/, azure_llm_2023/ and servegen/. Means of the data and of as many generated
requests go to standard error.
"""

import argparse
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import correlation, mean

from tdpipe.core.errors import TdpipeError
from tdpipe.simulation.workload import Workload
from tdpipe.simulation.workload_file import read_workload
from tdpipe.simulation.workload_models import QUANTILE_LEVELS, LengthModel


@dataclass(frozen=True)
class Source:
    """A model's name, its data, what is cut from it, and the comment above its table."""

    model: str
    file: str
    comment: str
    prepare: Callable[[Workload], Workload] = lambda workload: workload


def short_prompts(workload: Workload) -> Workload:
    """Only the requests whose prompt is under 1024 tokens."""
    kept = tuple(r for r in workload.requests if r.prompt_tokens < 1024)
    return replace(workload, requests=kept)


def short_outputs(workload: Workload) -> Workload:
    """Outputs cut to 8192 tokens."""
    return workload.scaled(output_limit=8192)


AZURE = "Azure LLM inference trace 2023, {} (CC-BY-4.0, Patel et al., Splitwise, ISCA 2024)."
SOURCES = (
    Source(
        "sharegpt",
        "length_tables/sharegpt_first_turn_lengths.csv",
        "First turns of ShareGPT in SmolLM2 tokens, prompts under 1024.",
        short_prompts,
    ),
    Source(
        "azure-conv",
        "azure_llm_2023/AzureLLMInferenceTrace_conv.csv",
        AZURE.format("conversations"),
    ),
    Source("azure-code", "azure_llm_2023/AzureLLMInferenceTrace_code.csv", AZURE.format("code")),
    Source(
        "m-large", "servegen/sampled_m-large_20k.csv", "ServeGen (Apache-2.0), language m-large."
    ),
    Source(
        "reasoning",
        "servegen/sampled_deepseek-r1_20k.csv",
        "ServeGen (Apache-2.0), deepseek-r1, outputs cut to 8192.",
        short_outputs,
    ),
)


def ranks(values: list[int]) -> list[float]:
    """Each value's place in the order; equal values share the middle of their places."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for place, value in enumerate(sorted(values)):
        first.setdefault(value, place)
        last[value] = place
    return [(first[value] + last[value]) / 2 for value in values]


def quantiles(values: list[int]) -> tuple[int, ...]:
    """The values at QUANTILE_LEVELS."""
    ordered = sorted(values)
    return tuple(ordered[round(level * (len(ordered) - 1))] for level in QUANTILE_LEVELS)


def fitted(lengths: list[tuple[int, int]]) -> LengthModel:
    """The model of these (prompt, output) lengths."""
    prompts, outputs = [prompt for prompt, _ in lengths], [output for _, output in lengths]
    rank_correlation = round(correlation(ranks(prompts), ranks(outputs)), 3)
    return LengthModel(quantiles(prompts), quantiles(outputs), rank_correlation)


def shown(source: Source, model: LengthModel) -> str:
    """The model as Python."""
    return "\n".join(
        [
            f"    # {source.comment}",
            f'    "{source.model}": LengthModel(',
            *_numbers(model.prompt_quantiles),
            *_numbers(model.output_quantiles),
            f"        {model.rank_correlation},",
            "    ),",
        ]
    )


def _numbers(values: tuple[int, ...]) -> list[str]:
    half = len(values) // 2
    first, second = ", ".join(map(str, values[:half])), ", ".join(map(str, values[half:]))
    return [f"        ({first},", f"         {second}),"]


def means(lengths: list[tuple[int, int]]) -> str:
    """Mean prompt and output."""
    return f"{mean(p for p, _ in lengths):9.2f} {mean(o for _, o in lengths):8.2f}"


def main() -> int:
    """Fit and print every source."""
    parser = argparse.ArgumentParser(description="Print workload models fitted to data.")
    parser.add_argument("--data", type=Path, required=True, help="the folder with the data")
    folder = parser.parse_args().data
    for source in SOURCES:
        try:
            lengths = source.prepare(read_workload(folder / source.file)).lengths()
        except TdpipeError as error:
            print(error, file=sys.stderr)
            return 1
        model = fitted(lengths)
        print(shown(source, model))
        draw = random.Random(0)
        generated = [model.draw(draw) for _ in lengths]
        print(
            f"{source.model}: {len(lengths)} rows, data's means {means(lengths)}, "
            f"generated {means(generated)}",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
