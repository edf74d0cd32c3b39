"""Tables of what batch runs are measured for: memory over long inputs, and faults."""


def batch_memory(result: dict) -> str:
    """Rates and memory by length of the input."""
    lines = [
        "| lines | lines/s | x the shortest | in its second tenth | in its ninth "
        "| engine at a tenth, MiB | at the end | stages at a tenth | at the end |",
        "|---" * 9 + "|",
    ]
    for run in result["runs"]:
        share = f"{run['rate_share']:.3f}" if "rate_share" in run else ""
        engine, stages = run["engine_mib"], run["stages_mib"]
        tenths = run["tenths_lines_per_s"]
        cells = [f"{run['lines']}", f"{run['lines_per_s']:.0f}", share]
        cells += [f"{tenths[at]:.0f}" if tenths else "" for at in (1, 8)]
        cells += [f"{engine['tenth']:.0f}", f"{engine['end']:.0f}"]
        cells += [", ".join(f"{one:.0f}" for one in stages[when]) for when in ("tenth", "end")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + (
        f"\n\nA tiny model, {result['settings']['stages']} stages "
        "([batch_memory.json](../benchmarks/results/batch_memory.json))\n"
    )


def faults(result: dict) -> str:
    """Runs by kind of fault."""
    kinds = result["num_by_action"]
    by_kind = {kind: [one for one in result["runs"] if one["action"] == kind] for kind in kinds}
    lines = ["| fault | runs | with problems | restarts | resumed |", "|---" * 5 + "|"]
    for kind, runs in by_kind.items():
        bad = sum(bool(run["problems"]) for run in runs)
        resumed = sum(len(run["statuses"]) > 1 for run in runs)
        restarts = sum(run["restarts"] for run in runs)
        lines.append(f"| {kind} | {len(runs)} | {bad} | {restarts} | {resumed} |")
    seen = result["detection_s"]
    times = f"{seen['median']:.1f} s (median of {seen['count']}), at most {seen['longest']:.1f} s"
    return "\n".join(lines) + (
        f"\n\n{result['num_runs']} runs, {result['num_with_problems']} with problems; detected "
        f"after {times} ([faults.json](../benchmarks/results/faults.json))\n"
    )
