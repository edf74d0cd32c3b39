"""The tables of docs/length_prediction.md from their result files."""

from collections.abc import Sequence
from typing import Any

# Figures of LengthMetrics, their labels and formats.
COLUMNS = (
    ("class_accuracy", "right class", "{:.3f}"),
    ("mean_error_tokens", "mean error", "{:.1f}"),
    ("sum_error_16", "sum of 16", "{:.1%}"),
    ("sum_error_64", "of 64", "{:.1%}"),
    ("sum_error_256", "of 256", "{:.1%}"),
    ("sum_error_256_p95", "P95", "{:.1%}"),
    ("p90_coverage", "within p90", "{:.1%}"),
)


def length_accuracy(result: dict[str, Any]) -> str:
    """One row a predictor."""
    settings = result["settings"]
    head = ["predictor", *(label for _, label, _ in COLUMNS)]
    rows = [
        [name, *(shape.format(row[key]) if key in row else "" for key, _, shape in COLUMNS)]
        for name, row in result["predictors"].items()
    ]
    return (
        table(head, rows)
        + f"\n{settings['train']} prompts to learn from, {settings['validation']} to choose by, "
        f"{settings['test']} to test; test lengths: mean {settings['mean_tokens']:.0f}, median "
        f"{settings['median_tokens']:.0f} tokens, {settings['cut_share']:.0%} cut by max_tokens. "
        "Errors of sums are means over 1000 random groups, P95 over groups of 256 "
        f"([{result['name']}.json](../benchmarks/results/{result['name']}.json))\n"
    )


def length_effect(result: dict[str, Any]) -> str:
    """One row a predictor, one column a scheduler."""
    ratios, runs = result["to_oracle"], result["runs"]
    predictors = list(next(iter(ratios.values())))
    rows = []
    for predictor in predictors:
        row = [predictor]
        for scheduler, of_one in ratios.items():
            found = of_one[predictor]
            preemptions = sum(
                run["num_preemptions"]
                for run in runs
                if (run["scheduler"], run["predictor"]) == (scheduler, predictor)
            )
            row.append(f"{found['mean']:.3f} ({found['least']:.3f}), {preemptions}")
        rows.append(row)
    return (
        table(["predictor", *ratios], rows)
        + f"\n{result['settings']['requests']} requests each. td-pipe-expected is td-pipe with "
        "memory simulated from the forecast's quantiles instead of its mean "
        "([length_effect.json](../benchmarks/results/length_effect.json))\n"
    )


def length_effect_real(result: dict[str, Any]) -> str:
    """Throughput over the oracle's and preemptions, medians over the rounds."""
    runs = result["runs"]
    schedulers = list(result["to_oracle"])
    predictors = list(next(iter(result["to_oracle"].values())))
    rows = []
    for predictor in predictors:
        row = [predictor]
        for scheduler in schedulers:
            preemptions = [
                run["num_preemptions"]
                for run in runs
                if (run["scheduler"], run["predictor"]) == (scheduler, predictor)
            ]
            told = "/".join(map(str, preemptions))
            row.append(f"{result['to_oracle'][scheduler][predictor]:.3f}, {told}")
        rows.append(row)
    return (
        table(["predictor", *schedulers], rows)
        + f"\nThe first {result['requests']} test prompts, a KV cache of {result['kv_tokens']} "
        f"tokens, {result['settings']['rounds']} rounds; throughput over that with the oracle in "
        "the same round (median), preemptions of each round "
        f"([{result['name']}.json](../benchmarks/results/{result['name']}.json))\n"
    )


def length_cost(result: dict[str, Any]) -> str:
    """Seconds of forecasting the demo's prompts."""
    kinds = [name for name, found in result.items() if isinstance(found, dict) and "share" in found]
    rows = [
        [
            name,
            f"{result[name]['predict_s'][0] * 1e3:.1f}",
            f"{result[name]['head_s'] * 1e3:.1f}",
            f"{result[name]['share']:.3%}",
        ]
        for name in kinds
    ]
    return (
        table(["predictor", "before prefill, ms", "head, ms", "of the run"], rows)
        + f"\nThe demo's {result['prompts']} chats, td-pipe, a run of {result['run_s']:.1f} s; "
        "the first forecast of the process counts "
        "([length_cost.json](../benchmarks/results/length_cost.json))\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    lines.insert(1, "|---" * len(head) + "|")
    return "\n".join(lines) + "\n"
