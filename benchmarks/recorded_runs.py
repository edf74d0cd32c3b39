"""Recorded vLLM runs against simulated ones: what the simulator says of machines others measured.

    python benchmarks/recorded_runs.py [--data ../shared/data/vllm_runs_rtx]

The recordings are those of LLMServingSim (github.com/casys-kaist/LLMServingSim, MIT, commit
5daddb21): vLLM 0.19.0 serves 300 ShareGPT requests that arrive at 10 a second. The folder holds
vllm_runs/<run>.requests.jsonl with, for each request, input_toks, output_toks, arrival_time and
the engine's queued_ts, first_token_ts and last_token_ts (s).

Each run is simulated with its arrivals, its lengths and its engine settings under hybrid batching
on one stage (tp-hybrid, with the recorded token budget), on the catalogue's figures of its
devices. Nothing is tuned to the recordings. Simulated runs are deterministic: figures are those of
any machine.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from result_record import ROOT, write_result
from tdpipe.core.errors import ConfigError, TdpipeError
from tdpipe.cost.cost_model import BatchLoad, CostModel
from tdpipe.cost.hardware_catalogue import find_device
from tdpipe.cost.model_catalogue import find_model
from tdpipe.cost.placement import UTILIZATION, place
from tdpipe.policies.hybrid_batching import HybridBatching
from tdpipe.prediction.max_tokens import MaxTokensPredictor
from tdpipe.simulation.scenario import Scenario
from tdpipe.simulation.simulated_run import SimulatedRun, simulate
from tdpipe.simulation.workload import Workload, WorkloadRequest, timed_requests_of

DATA = ROOT.parent / "shared" / "data" / "vllm_runs_rtx"
SMOKE_REQUESTS = 30
TAIL_INSTANTS = 500


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A recording and the settings of its engine, as LLMServingSim's meta.json files name them.

    Attributes:
        name: of its file.
        device, model: their names in our catalogues.
        kv_tokens: what vLLM's KV cache held, where it was recorded.
    """

    name: str
    device: str
    model: str
    tensor_parallel: int
    max_num_seqs: int
    max_num_batched_tokens: int = 2048
    value_bytes: int = 2  # bfloat16
    kv_tokens: int | None = None


# From bench/examples/RTXPRO6000/*/vllm/meta.json and, for the RTX 4090, from
# bench/results/llama-3.1-8b-rtx4090/meta.json (commit da26736b), which has the recording's time.
# What they do not name (share of memory and block size of the RTX PRO 6000) is vLLM's default.
RUNS = (
    RecordedRun("RTX4090_Llama-3.1-8B", "RTX-4090", "llama-3.1-8b", 1, 256, kv_tokens=41408),
    RecordedRun("RTXPRO6000_Llama-3.1-8B", "RTX-PRO-6000", "llama-3.1-8b", 1, 128),
    RecordedRun("RTXPRO6000_Qwen3-32B", "RTX-PRO-6000", "qwen3-32b", 2, 128),
)
BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True)
class Served:
    """One request as it was served; seconds after the first arrival."""

    prompt_tokens: int
    output_tokens: int
    arrival_s: float
    first_s: float
    last_s: float


def read_run(path: Path) -> list[Served]:
    """The requests of a recording, in its order.

    Arrivals are on the wall clock, tokens on the engine's; the clocks are taken to differ by the
    least time between a request's arrival and its entry into the engine's queue.

    Raises:
        ConfigError: there is no such file, or a line of it is broken.
    """
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        arrivals = [float(row["arrival_time"]) for row in rows]
        first = min(arrivals)
        shift = min(float(row["queued_ts"]) - row["arrival_time"] for row in rows) + first
        return [
            Served(
                int(row["input_toks"]),
                int(row["output_toks"]),
                arrival - first,
                row["first_token_ts"] - shift,
                row["last_token_ts"] - shift,
            )
            for row, arrival in zip(rows, arrivals, strict=True)
        ]
    except OSError as error:
        fix = f"cannot be read ({error.strerror}): give the folder of the recordings with --data"
        raise ConfigError("data", path.name, fix) from None
    except (ValueError, TypeError, KeyError) as error:
        fix = f"not a recording, one JSON object a line with times and tokens ({error!r})"
        raise ConfigError("data", path.name, fix) from None


def scenario_of(run: RecordedRun, recorded: Sequence[Served]) -> Scenario:
    """The run's requests, devices and engine settings."""
    requests = (WorkloadRequest(r.prompt_tokens, r.output_tokens, r.arrival_s) for r in recorded)
    shape, device = find_model(run.model), find_device(run.device)
    return Scenario(
        place(shape, device, 1, run.tensor_parallel, run.value_bytes),
        Workload(run.name, tuple(requests)),
        block_size=BLOCK_SIZE,
        max_num_seqs=run.max_num_seqs,
        max_num_batched_tokens=run.max_num_batched_tokens,
    )


def simulated(scenario: Scenario) -> SimulatedRun:
    """The run under hybrid batching, with the scenario's token budget for each batch."""
    return simulate(
        timed_requests_of(scenario.workload),
        HybridBatching(scenario.max_num_batched_tokens),
        scenario.placement.cost(),
        scenario.limits(),
        MaxTokensPredictor(),  # hybrid batching asks for no forecast
        output_tokens=[output for _, output in scenario.workload.lengths()],
    )


def served_by(run: SimulatedRun, recorded: Sequence[Served]) -> list[Served]:
    """The recorded requests at the times of the simulated run."""
    return [
        Served(one.prompt_tokens, one.output_tokens, one.arrival_s, times.first_s, times.last_s)
        for one, times in zip(recorded, run.token_times, strict=True)
    ]


def figures(requests: Sequence[Served]) -> dict[str, float]:
    """Makespan, throughput and the distribution of latencies (arrival to last token)."""
    latencies = [one.last_s - one.arrival_s for one in requests]
    waits = [one.first_s - one.arrival_s for one in requests]
    makespan_s = max(one.last_s for one in requests)
    output_tokens = sum(one.output_tokens for one in requests)
    return {
        "makespan_s": makespan_s,
        "output_tokens_per_s": output_tokens / makespan_s,
        **{f"latency_p{level}_s": percentile(latencies, level) for level in (10, 50, 90, 99)},
        **{f"ttft_p{level}_s": percentile(waits, level) for level in (50, 90)},
        "tpot_mean_s": statistics.fmean(
            (one.last_s - one.first_s) / (one.output_tokens - 1)
            for one in requests
            if one.output_tokens > 1
        ),
    }


def percentile(values: Sequence[float], level: int) -> float:
    """The value below which `level` % of them are, between two of them in proportion."""
    return statistics.quantiles(values, n=100, method="inclusive")[level - 1]


def completion_distance(ours: Sequence[Served], theirs: Sequence[Served]) -> float:
    """Largest distance between the shares of requests completed by any instant."""
    steps = [(one.last_s, 1 / len(ours)) for one in ours]
    steps += [(one.last_s, -1 / len(theirs)) for one in theirs]
    steps.sort()
    apart = largest = 0.0
    for index, (instant_s, step) in enumerate(steps):
        apart += step
        if index + 1 == len(steps) or steps[index + 1][0] > instant_s:
            largest = max(largest, abs(apart))
    return largest


def decode_tail(recorded: Sequence[Served], cost: CostModel) -> dict[str, float]:
    """Mean step of the recording where nothing but decoding is left, and the cost model's.

    From the last first token on, each step gives its request a token, so that the recording tells
    the number of steps. The cost model's mean is over the same time and the same requests, whose
    contexts are taken to grow evenly.
    """
    last = max((one for one in recorded if one.output_tokens > 1), key=lambda one: one.first_s)
    duration_s = last.last_s - last.first_s
    fitting_steps = 0.0
    for instant in range(TAIL_INSTANTS):
        now_s = last.first_s + duration_s * (instant + 0.5) / TAIL_INSTANTS
        step_s = cost.stage_time_s(0, _decode_load(recorded, now_s))
        fitting_steps += duration_s / TAIL_INSTANTS / step_s
    recorded_s, modelled_s = duration_s / (last.output_tokens - 1), duration_s / fitting_steps
    return {
        "recorded_step_s": recorded_s,
        "modelled_step_s": modelled_s,
        "error": modelled_s / recorded_s - 1,
    }


def _decode_load(recorded: Sequence[Served], now_s: float) -> BatchLoad:
    """The batch that decodes at now_s."""
    running = [one for one in recorded if one.first_s <= now_s < one.last_s]
    context_tokens = sum(
        one.prompt_tokens + one.output_tokens * (now_s - one.first_s) / (one.last_s - one.first_s)
        for one in running
    )
    return BatchLoad(
        decode_sequences=len(running),
        decode_context_tokens=round(context_tokens),
        sampled=len(running),
    )


def compare(run: RecordedRun, folder: Path, limit: int | None) -> dict[str, Any]:
    """A run's settings, recorded and simulated figures, and their relative errors.

    Args:
        limit: take the first requests only.
    """
    recorded = read_run(folder / "vllm_runs" / f"{run.name}.requests.jsonl")[:limit]
    scenario = scenario_of(run, recorded)
    result = simulated(scenario)
    ours = served_by(result, recorded)
    theirs_figures, ours_figures = figures(recorded), figures(ours)
    return {
        **asdict(run),
        "requests": len(recorded),
        "simulated_kv_tokens": scenario.limits().kv_tokens,
        "simulated_preemptions": result.num_preemptions,
        "simulated_peak_kv_share": result.peak_kv_share,
        "recorded": theirs_figures,
        "simulated": ours_figures,
        "errors": {key: ours_figures[key] / theirs_figures[key] - 1 for key in theirs_figures},
        "completion_distance": completion_distance(ours, recorded),
        "decode_tail": decode_tail(recorded, scenario.placement.cost()),
    }


def show(row: dict[str, Any]) -> None:
    """A run's table."""
    print(
        f"{row['name']}: {row['tensor_parallel']} x {row['device']}, {row['requests']} requests\n"
        f"  {'':20} {'recorded':>10} {'simulated':>10} {'error':>8}"
    )
    for key, theirs in row["recorded"].items():
        print(f"  {key:20} {theirs:10.3f} {row['simulated'][key]:10.3f} {row['errors'][key]:+8.1%}")
    print(f"  {'kv_tokens':20} {row['kv_tokens'] or '-':>10} {row['simulated_kv_tokens']:10}")
    print(f"  {'completion distance':20} {row['completion_distance']:21.3f}")
    tail = row["decode_tail"]
    print(
        f"  {'decode tail step_s':20} {tail['recorded_step_s']:10.4f} "
        f"{tail['modelled_step_s']:10.4f} {tail['error']:+8.1%}"
    )


def main() -> int:
    """Simulate every recording and write the comparison."""
    parser = argparse.ArgumentParser(description="Simulate recorded vLLM runs.")
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of the recordings")
    parser.add_argument("--smoke", action="store_true", help=f"{SMOKE_REQUESTS} requests of each")
    parser.add_argument("--folder", type=Path, help="where to write, instead of results/")
    options = parser.parse_args()
    limit = SMOKE_REQUESTS if options.smoke else None
    try:
        rows = [compare(run, options.data, limit) for run in RUNS]
    except TdpipeError as error:
        print(error, file=sys.stderr)
        return 1
    for row in rows:
        show(row)
    settings = {
        "scheduler": "tp-hybrid",
        "recordings": "github.com/casys-kaist/LLMServingSim 5daddb21, vLLM 0.19.0",
        "block_size": BLOCK_SIZE,
        "utilization": UTILIZATION,
        "engine_overhead_s": 0.0,
    }
    path = write_result("recorded_runs", settings, {"runs": rows}, options.folder)
    print(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
