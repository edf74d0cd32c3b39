"""How well output lengths are forecast on prompts that no predictor has seen.

    python benchmarks/length_prompts.py build/lengths/prompts.jsonl
    tdpipe lengths collect -i build/lengths/prompts.jsonl -o build/lengths/greedy.jsonl -p 2
    for kind in text encoder hidden; do tdpipe lengths train -i build/lengths/greedy.jsonl \\
        --kind $kind -o build/lengths/$kind.safetensors; done
    python benchmarks/length_accuracy.py --table build/lengths/greedy.jsonl \\
        --predictors build/lengths/*.safetensors [--other build/lengths/warm.jsonl]

Classes are cut at the 25th, 50th, 75th and 99th percentile of the training lengths, as in the
paper. Errors of sums are over random groups of the test prompts. --other is a table of the same
prompts under other sampling; its lengths are the "hints" that are held against this table's.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from length_tables import COLUMNS
from length_tellings import load_predictors, tellings
from result_record import ROOT, write_result
from tdpipe.lengths.length_evaluation import class_edges, evaluate
from tdpipe.lengths.length_table import LengthRecord, read_length_table
from tdpipe.prediction.length_predictor import LengthForecast


def hints(table: list[LengthRecord], other: Path) -> tuple[list[LengthRecord], list[Any]]:
    """The test records that the other table has too, and its lengths as forecasts."""
    known = {one.custom_id: one.output_tokens for one in read_length_table(other).records}
    both = [one for one in table if one.custom_id in known]
    told = [LengthForecast.certain(min(known[o.custom_id], o.max_tokens)) for o in both]
    return both, told


def main() -> None:
    """Evaluate, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--predictors", type=Path, nargs="*", default=[])
    parser.add_argument("--other", type=Path, help="the same prompts' lengths in another run")
    parser.add_argument("--name", default="length_accuracy")
    parser.add_argument("--folder", type=Path, help="where to write, instead of results/")
    options = parser.parse_args()
    table = read_length_table(options.table)
    train, test = table.part("train"), list(table.part("test"))
    edges = class_edges([one.output_tokens for one in train])
    rows: dict[str, dict[str, float]] = {}
    predictors = list(load_predictors(options.predictors).values())
    for told in tellings(table, predictors, options.table.parent):
        if told.after is not None and told.before is not None:
            early = evaluate(told.before, test, edges, told.early_classes)
            rows[f"{told.name}, before the prefill"] = early.figures()
        last = told.after or told.before
        if last is not None:
            rows[told.name] = evaluate(last, test, edges, told.classes).figures()
    if options.other:
        both, forecasts = hints(test, options.other)
        rows["hints"] = evaluate(forecasts, both, edges).figures()
    lengths = [one.output_tokens for one in test]
    settings = {
        "table": table.fingerprint(), "model": table.model, "temperature": table.temperature,
        "train": len(train), "validation": len(table.part("validation")), "test": len(test),
        "class_edges": list(edges), "mean_tokens": statistics.fmean(lengths),
        "median_tokens": statistics.median(lengths),
        "cut_share": sum(one.was_cut for one in test) / len(test),
    }  # fmt: skip
    path = write_result(options.name, settings, {"predictors": rows}, options.folder)
    for name, row in rows.items():
        cells = (f"{label} {shape.format(row[key])}" for key, label, shape in COLUMNS if key in row)
        print(f"{name:28} {', '.join(cells)}")
    print(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


if __name__ == "__main__":
    main()
