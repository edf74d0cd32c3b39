"""Tables of the execution plane: where time goes, the floor, what int8 costs."""

import json
from statistics import median

from result_record import RESULTS, cores_text


def breakdown(result: dict) -> str:
    """Seconds of each part by scheduler, stage and phase."""
    runs = result["runs"]
    rows = [
        (scheduler, stage, phase, parts)
        for scheduler, run in runs.items()
        for stage, phases in enumerate(run["stages"])
        for phase, parts in phases.items()
    ]
    columns = sorted({part for *_, parts in rows for part in parts})
    lines = [
        "| scheduler | stage | phase | " + " | ".join(columns) + " | of it |",
        "|---" * (4 + len(columns)) + "|",
    ]
    for scheduler, stage, phase, parts in rows:
        cells = " | ".join(f"{parts.get(part, 0.0):.1f}" for part in columns)
        share = parts.get("waiting", 0.0) / sum(parts.values())
        lines.append(f"| {scheduler} | {stage} | {phase} | {cells} | {share:.0%} |")
    told = "; ".join(
        f"{scheduler}: layers {', '.join(map(str, run['partition']))}, "
        f"{run['output_tokens_per_s']:.0f} output tokens/s, {run['seconds']:.1f} s, of which "
        f"{' and '.join(f'{1 - busy:.0%}' for busy in run['stage_busy_shares'])} bubbles, the "
        f"engine's process {run['engine_cpu_s']:.1f} s"
        for scheduler, run in runs.items()
    )
    return "\n".join(lines) + (
        f"\n\nSeconds, {result['settings']['requests']} requests. {told}. "
        f"{cores_text(result['machine'])} "
        "([breakdown.json](../benchmarks/results/breakdown.json))\n"
    )


def limit(result: dict) -> str:
    """The floor's parts and the shares of it that recorded runs reach."""
    settings, name = result["settings"], result["name"]
    lines = ["| part of the floor | s of one core |", "|---|---|"]
    lines += [f"| {part} | {core_s:.1f} |" for part, core_s in result["core_s"].items()]
    is_int8 = settings["quantization"] == "int8"
    runs = recorded_runs(settings["requests"], is_int8, result["machine"])
    shares = "; ".join(
        f"{run} {result['floor_s'] / seconds:.0%} ({result['floor_products_s'] / seconds:.0%} in "
        "matrix products alone)"
        for run, seconds in runs.items()
    )
    return "\n".join(lines) + (
        f"\n\nOver {settings['stages']} stages at least {result['floor_s']:.1f} s, "
        f"{result['floor_output_tokens_per_s']:.0f} output tokens/s; each core multiplies "
        f"{_fastest(result['rates']):.0f} x 10^9 a second and reads memory at "
        f"{result['read_bytes_per_s'] / 1e9:.0f} GB/s while the others do the same (alone "
        f"{_fastest(result['rates_alone']):.0f} and {result['read_bytes_per_s_alone'] / 1e9:.0f}); "
        f"{cores_text(result['machine'])}. Share of the floor that runs on such a machine "
        f"reached: {shares or 'none recorded'} "
        f"([{name}.json](../benchmarks/results/{name}.json))\n"
    )


def _fastest(rates: dict[str, dict[str, float]]) -> float:
    """Operations a second, in 10^9, of the shape and number of rows that are multiplied fastest."""
    return max(rate for of_shape in rates.values() for rate in of_shape.values()) / 1e9


def projection_rates(result: dict) -> str:
    """Operations a second by layout and number of rows."""
    rates = result["operations_per_s"]
    counts = list(next(iter(rates.values())))
    lines = [f"| rows | {' | '.join(rates)} |", "|---" * (1 + len(rates)) + "|"]
    for count in counts:
        cells = (f"{of_count[count] / 1e9:.0f}" for of_count in rates.values())
        lines.append(f"| {count} | {' | '.join(cells)} |")
    settings, name = result["settings"], result["name"]
    return "\n".join(lines) + (
        f"\n\n10^9 operations a second of one core, the weights of {settings['layers']} layers in "
        f"order, {settings['rounds']} rounds in turn, medians, {cores_text(result['machine'])} "
        f"([{name}.json](../benchmarks/results/{name}.json))\n"
    )


def slow_link(result: dict) -> str:
    """Pipeline and tensor parallelism over links of different speed."""
    settings, machine, rounds = result["settings"], result["machine"], result["settings"]["rounds"]
    how = "one round in turn" if rounds == 1 else f"{rounds} alternating rounds, medians"
    return (
        f"{result['table']}\n\n{settings['requests']} requests, {settings['prompt_tokens']} prompt "
        f"and {settings['output_tokens']} output tokens, {how}, {cores_text(machine)} "
        "([slow_link.json](../benchmarks/results/slow_link.json))\n"
    )


def recorded_runs(requests: int, int8: bool, machine: dict) -> dict[str, float]:
    """Median seconds of each contender of results/peers*.json on this workload and such a machine.

    Older records do not tell the machine's vectors, and then match those that do not either.
    """
    for path in sorted(RESULTS.glob("peers*.json")):
        record = json.loads(path.read_text())
        settings, found = record["settings"], record["machine"]
        is_same = (settings["requests"], settings["scale"]) == (requests, 1.0)
        if is_same and "vllm" in record["runs"] and found.get("vectors") == machine.get("vectors"):
            return {
                name: median(round_["seconds"] for round_ in entry["rounds"])
                for name, entry in record["runs"].items()
                # The floor counts reads of a KV cache in float32.
                if name.endswith("-int8") == int8 and not name.endswith("-kv16")
            }
    return {}


def stage_memory(result: dict) -> str:
    """Peak memory of each stage, in MiB."""
    lines = ["| stage | peak, MiB | weights | KV cache | beside |", "|---" * 5 + "|"]
    for stage, one in enumerate(result["stages"]):
        sizes = one["peak_bytes"], one["weight_bytes"], result["kv_bytes"], one["beside_bytes"]
        cells = " | ".join(f"{size / 2**20:.0f}" for size in sizes)
        lines.append(f"| {stage} | {cells} |")
    return "\n".join(lines) + (
        f"\n\n{result['peak_kv_share']:.0%} of the cache used; the peak counts the libraries' "
        f"shared pages; ready {result['ready_s']:.1f} s after the start "
        "([stage_memory.json](../benchmarks/results/stage_memory.json))\n"
    )


def quantization(result: dict) -> str:
    """Perplexity and agreement of each type of weights and KV cache."""
    agreement = result["agreement"]
    if "answers" in agreement:  # a record of before there was more than int8
        agreement = {"int8": agreement}
    lines = ["| weights | KV cache | perplexity | same answers | tokens before a difference |"]
    lines.append("|---" * 5 + "|")
    for name, perplexity in result["perplexity"].items():
        weights, cache = name.removesuffix("-kv16"), name.endswith("-kv16")
        found = agreement.get(name)
        same = (found["same_answers"], found["same_tokens_before_a_difference"]) if found else ()
        shares = " | ".join(f"{share:.0%}" for share in same) or " | "
        lines.append(
            f"| {weights} | {'float16' if cache else 'float32'} | {perplexity:.3f} | {shares} |"
        )
    count = next(iter(agreement.values()))["answers"]
    return "\n".join(lines) + (
        f"\n\nPerplexity on {result['text_tokens']} tokens of the documentation. {count} greedy "
        f"answers of up to {result['settings']['max_tokens']} tokens, beside those in float32: how "
        "many are the same, and how many of the tokens come before the first that differs "
        "([quantization.json](../benchmarks/results/quantization.json))\n"
    )


def prefix_sharing(result: dict) -> str:
    """Time and peak memory with prefix caching on and off."""
    lines = ["| prefix caching | s | x | KV cache at the peak | prompt tokens from the cache |"]
    lines.append("|---" * 5 + "|")
    runs_of = result["runs"]
    medians = {name: median(one["seconds"] for one in runs) for name, runs in runs_of.items()}
    for name, runs in runs_of.items():
        ratio = medians["off"] / medians[name]
        lines.append(
            f"| {name} | {medians[name]:.1f} | {ratio:.2f} | {runs[0]['peak_kv_share']:.1%} | "
            f"{runs[0]['cached_share']:.1%} |"
        )
    settings, machine, name = result["settings"], result["machine"], result["name"]
    rounds = settings["rounds"]
    return "\n".join(lines) + (
        f"\n\n{settings['requests']} requests, a header of {settings['header_tokens']} tokens and "
        f"{settings['output_tokens']} output tokens each, {runs_of['on'][0]['prompt_tokens']} "
        f"prompt tokens in all; {settings['scheduler']}, {settings['stages']} stages with "
        f"{settings['kv_cache_memory']} of KV cache each; "
        f"{f'{rounds} alternating rounds, medians' if rounds > 1 else 'one round in turn'}; "
        f"{cores_text(machine)}; {result['same_outputs']:.0%} of the "
        f"answers are the same ([{name}.json](../benchmarks/results/{name}.json))\n"
    )
