"""The floor of the peers' workload on this machine, and the share of it that recorded runs reach.

    python benchmarks/limit.py [--quantization int8] [--stages 2]

The floor is what the stages cannot do without, each with a core of its own and perfectly balanced:

matrix products   operations of every projection, at the best rate measured for its shape over many
                  numbers of rows; of the vocabulary, only for tokens that are sampled
keys and values   bytes that decoding reads from the cache, at the measured rate of reading memory
prefill pairs     operations of attention inside the prompts, at the best rate of any shape

Rates are those of a core while the other stages' cores do the same; those of a core alone are
measured beside them and written, not used.

Norms, rotations, activations, sampling, the weights of small batches and bubbles are free in it.
Writes benchmarks/results/limit.json (limit_int8.json) and prints a table.
"""

import argparse
from pathlib import Path
from typing import Any

from core_rates import Rates, Work, core_rates
from execution_tables import recorded_runs
from result_record import machine, write_result
from tdpipe.execution.models.model_source import load_config, resolve_model
from workload_lognormal import WorkItem, make_workload

MODEL = "smollm2-135m-instruct"
ROWS = (16, 32, 64, 96, 128, 256, 512, 1024)
READ_BYTES = 1 << 29
SECONDS_EACH = 0.4


def shapes_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of each projection; all but "vocabulary" are in every layer."""
    config = load_config(folder)
    heads, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    hidden, inner = config.hidden_size, config.intermediate_size
    return {
        "qkv": (hidden, heads + 2 * kv),
        "out": (heads, hidden),
        "gate_up": (hidden, 2 * inner),
        "down": (inner, hidden),
        "vocabulary": (hidden, config.vocab_size),
    }


def floor(workload: list[WorkItem], folder: Path, rates: Rates) -> dict[str, float]:
    """Seconds of one core for each part of the workload."""
    config = load_config(folder)
    num_tokens = sum(len(item.prompt) + item.output_tokens - 1 for item in workload)
    sampled = sum(item.output_tokens for item in workload)
    # Output token k of a request reads the prompt and the k before it, itself included.
    cached = sum(
        (item.output_tokens - 1) * len(item.prompt)
        + (item.output_tokens - 1) * item.output_tokens // 2
        for item in workload
    )
    pairs = sum(len(item.prompt) * (len(item.prompt) + 1) // 2 for item in workload)
    products_s = 0.0
    for name, (inputs, outputs) in shapes_of(folder).items():
        in_layers = num_tokens * config.num_layers
        count = sampled if name == "vocabulary" else in_layers
        products_s += 2.0 * count * inputs * outputs / max(rates.products[name].values())
    cached_bytes = 2 * config.num_kv_heads * config.head_dim * 4 * config.num_layers
    fastest = max(max(of_shape.values()) for of_shape in rates.products.values())
    pair_operations = 4.0 * config.num_heads * config.head_dim * config.num_layers
    return {
        "matrix products": products_s,
        "keys and values": cached * cached_bytes / rates.read_bytes_per_s,
        "prefill pairs": pairs * pair_operations / fastest,
    }


def main() -> None:
    """Measure, compute, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--quantization", choices=("int8",))
    parser.add_argument("--smoke", action="store_true", help="few rows, short measurements")
    parser.add_argument("--folder", type=Path, help="where to write, instead of results/")
    options = parser.parse_args()
    seconds = 0.01 if options.smoke else SECONDS_EACH
    int8 = options.quantization == "int8"
    folder = resolve_model(MODEL).folder
    workload = make_workload(options.requests, seed=0)
    rows = ROWS[:2] if options.smoke else ROWS
    read_bytes = READ_BYTES >> (6 if options.smoke else 0)
    work = Work(shapes_of(folder), rows, int8, read_bytes, seconds)
    alone, together = core_rates(work, 1), core_rates(work, options.stages)
    parts = floor(workload, folder, together)
    seconds_at_least = sum(parts.values()) / options.stages
    output_tokens = sum(item.output_tokens for item in workload)
    figures: dict[str, Any] = {
        "rates": together.products,
        "read_bytes_per_s": together.read_bytes_per_s,
        "rates_alone": alone.products,
        "read_bytes_per_s_alone": alone.read_bytes_per_s,
        "core_s": parts,
        "floor_s": seconds_at_least,
        "floor_products_s": parts["matrix products"] / options.stages,
        "floor_output_tokens_per_s": output_tokens / seconds_at_least,
    }
    settings = {
        "requests": options.requests, "stages": options.stages,
        "quantization": options.quantization, "smoke": options.smoke,
    }  # fmt: skip
    write_result("limit_int8" if int8 else "limit", settings, figures, options.folder)
    show(figures, recorded_runs(options.requests, int8, machine()))


def show(figures: dict[str, Any], runs: dict[str, float]) -> None:
    """Rates, floor, and its share of the seconds that runs took."""
    for which, of_which in (("", "of each core"), ("_alone", "of a core alone")):
        for name, of_shape in figures[f"rates{which}"].items():
            cells = ", ".join(f"{count}: {rate / 1e9:.0f}" for count, rate in of_shape.items())
            print(f"{name:12} 10^9 operations/s {of_which} by rows: {cells}")
        print(f"memory is read at {figures[f'read_bytes_per_s{which}'] / 1e9:.1f} GB/s {of_which}")
    for name, core_s in figures["core_s"].items():
        print(f"{name:16} {core_s:7.1f} s of one core")
    print(
        f"floor {figures['floor_s']:.1f} s, {figures['floor_output_tokens_per_s']:.0f} output "
        "tokens/s"
    )
    for name, seconds in runs.items():
        print(f"{name}: {figures['floor_s'] / seconds:.1%} of the floor")


if __name__ == "__main__":
    main()
