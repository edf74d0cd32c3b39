"""What better forecasts of output lengths are worth: throughput and preemptions per predictor.

    python benchmarks/length_effect.py --table build/lengths/greedy.jsonl \\
        --predictors build/lengths/{hidden,text,encoder}.safetensors [--parts simulated,real,cost]

The prompts are those of the table's test part, none of which a predictor has seen; their lengths
are those of the model's own outputs.

simulated  the paper's nodes of 4 devices, requests drawn from the test part; td-pipe (with the
           point forecast as in the paper, and with the forecast's distribution) and adaptive.
           Deterministic: with --anew hidden,adaptive only the cells with one of these predictors
           or schedulers are simulated, the others stand as they are on file.
real       the first requests of the test part on 2 stages of this machine, with a KV cache that
           holds a share of them, predictors in turn, round after round
cost       seconds that forecasting takes on the demo's chats, against a run of them

A "hidden" predictor forecasts from the text before the prefill, and again with the first token.
--smoke makes up a table and learns from that: it shows that the script works, nothing else.
"""

import argparse
import itertools
import json
import random
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from length_tellings import MODEL, AsTold, Told, load_predictors, tellings
from paper import NODES
from result_record import RESULTS, ROOT, write_result
from tdpipe import LLM, SamplingParams
from tdpipe.control.arrivals import TimedRequest
from tdpipe.control.control_plane import NewRequest
from tdpipe.core.limits import Limits
from tdpipe.cost.cost_model import CostModel
from tdpipe.cost.hardware_catalogue import find_device
from tdpipe.cost.model_catalogue import find_model
from tdpipe.cost.placement import place
from tdpipe.execution.models.model_source import resolve_model
from tdpipe.lengths.learned_predictor import LearnedPredictor
from tdpipe.lengths.length_table import LengthRecord, LengthTable, read_length_table
from tdpipe.lengths.predictor_file import load_predictor
from tdpipe.policies.greedy_prefill import GreedyPrefill
from tdpipe.policies.kv_forecast import expected_blocks
from tdpipe.policies.policy import Policy
from tdpipe.policies.scheduler_registry import make_scheduler
from tdpipe.policies.temporal_disaggregation import TemporalDisaggregation
from tdpipe.prediction.length_predictor import LengthForecast, Prompt
from tdpipe.simulation.lower_bound import lower_bound
from tdpipe.simulation.simulated_pipeline import END_TOKEN, PLACEHOLDER_TOKEN
from tdpipe.simulation.simulated_run import simulate

SCHEDULERS = ("td-pipe", "td-pipe-expected", "adaptive")
# Those that the issue of length prediction compares in real runs.
REAL_PREDICTORS = ("oracle", "hidden", "encoder", "constant", "max-tokens")
# Of the real stages: the same for all schedulers, so that the cache is.
LAYERS = (17, 13)
NUM_DEVICES = 4
DEMO = ROOT / "examples" / "prompts.jsonl"


# ---- simulated


def make_policy(name: str, cost: CostModel) -> Policy:
    """A scheduler by name; td-pipe-expected simulates memory from distributions."""
    if name == "td-pipe-expected":
        return TemporalDisaggregation(cost, GreedyPrefill(blocks=expected_blocks))
    return make_scheduler(name, cost)


def simulated(
    cell: tuple[tuple[str, str], str, Told], records: Sequence[LengthRecord], requests: int
) -> dict[str, Any]:
    """One run; settings and figures."""
    (device, model), scheduler, told = cell
    source = random.Random(0)
    drawn = [source.randrange(len(records)) for _ in range(requests)]
    placement = place(find_model(model), find_device(device), NUM_DEVICES)
    cost = placement.cost()
    limits = Limits(
        num_stages=NUM_DEVICES, block_size=16, num_blocks=placement.num_blocks(16),
        max_model_len=8192, max_num_seqs=512,
    )  # fmt: skip
    run = simulate(
        [TimedRequest(0.0, simulated_request(i, records[n])) for i, n in enumerate(drawn)],
        make_policy(scheduler, cost), cost, limits, told.predictor(drawn),
        output_tokens=[records[n].output_tokens for n in drawn],
        prompt_forecasts=told.after and [told.after[n].mean_tokens for n in drawn],
    )  # fmt: skip
    assert run.output_tokens == sum(records[n].output_tokens for n in drawn), run.output_tokens
    lengths = [(len(records[n].token_ids), records[n].output_tokens) for n in drawn]
    bound = lower_bound(lengths, cost, limits.kv_tokens)
    return {
        "device": device, "model": model, "scheduler": scheduler, "predictor": told.name,
        "tokens_per_s": run.tokens_per_s, "makespan_s": run.makespan_s,
        "bound_share": bound.seconds / run.makespan_s,
        "num_preemptions": run.num_preemptions, "recomputed_share": run.recomputed_share,
        "peak_kv_share": run.peak_kv_share,
    }  # fmt: skip


def simulated_request(request_id: int, record: LengthRecord) -> NewRequest:
    """A request of the record's prompt length, with its limit; the pipeline ends it."""
    params = SamplingParams(max_tokens=record.max_tokens, temperature=0.0)
    prompt = (PLACEHOLDER_TOKEN,) * len(record.token_ids)
    return NewRequest(request_id, prompt, params, eos_token_ids=(END_TOKEN,))


def simulated_part(
    told: Sequence[Told],
    records: Sequence[LengthRecord],
    requests: int,
    processes: int,
    on_file: Sequence[dict[str, Any]] = (),
) -> list[dict[str, Any]]:
    """All cells, relative to the oracle; rows on file are taken as they are."""
    kept = {(r["device"], r["model"], r["scheduler"], r["predictor"]): r for r in on_file}
    cells = {
        (*node, scheduler, one.name): (node, scheduler, one)
        for node, scheduler, one in itertools.product(NODES, SCHEDULERS, told)
    }
    new = [key for key in cells if key not in kept]
    with ProcessPoolExecutor(processes) as pool:
        run = partial(simulated, records=records, requests=requests)
        kept |= zip(new, pool.map(run, [cells[key] for key in new]), strict=True)
    rows = [kept[key] for key in cells]
    oracle = {
        (row["device"], row["model"], row["scheduler"]): row["tokens_per_s"]
        for row in rows
        if row["predictor"] == "oracle"
    }
    for row in rows:
        best = oracle[row["device"], row["model"], row["scheduler"]]
        row["to_oracle"] = row["tokens_per_s"] / best
        print(
            f"{row['device']:14} {row['model']:12} {row['scheduler']:17} {row['predictor']:10} "
            f"{row['tokens_per_s']:8.0f} tokens/s, {row['to_oracle']:.3f} of the oracle's, "
            f"bound {row['bound_share']:.1%}, {row['num_preemptions']} preemptions",
            flush=True,
        )
    return rows


def rows_on_file(
    folder: Path | None, settings: dict[str, Any], anew: Sequence[str]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of the result file with none of these predictors and schedulers, and their commit.

    They must be of the same table and the same requests.
    """
    record = json.loads(((folder or RESULTS) / "length_effect.json").read_text())
    for name in ("table", "requests"):
        assert record["settings"][name] == settings[name], (name, record["settings"][name])
    kept = [row for row in record["runs"] if not {row["scheduler"], row["predictor"]} & {*anew}]
    return kept, record["commit"]


def to_oracle(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Scheduler -> predictor -> geometric mean and least of throughput over the oracle's."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        of_one = found.setdefault(row["scheduler"], {})
        of_one.setdefault(row["predictor"], []).append(row["to_oracle"])
    return {
        scheduler: {
            name: {"mean": statistics.geometric_mean(values), "least": min(values)}
            for name, values in of_one.items()
        }
        for scheduler, of_one in found.items()
    }


# ---- real


def real_part(
    table: LengthTable, files: dict[str, Path], options: argparse.Namespace
) -> dict[str, Any]:
    """Runs on 2 stages, every predictor once a round."""
    records = table.part("test")[: options.real_requests]
    held = options.kv_share * sum(len(one.token_ids) + one.output_tokens for one in records)
    mean = round(statistics.fmean(one.output_tokens for one in table.part("train")))
    runs: list[dict[str, Any]] = []
    schedulers, names = options.real_schedulers.split(","), options.real_predictors.split(",")
    turns = list(itertools.product(schedulers, names))
    # Every second round goes backwards, so that a machine that slows down favours nobody.
    order = [
        (number, *turn) for number in range(options.rounds) for turn in turns[:: 1 - number % 2 * 2]
    ]
    for round_number, scheduler, name in order:
        if name in ("hidden", "encoder") and name not in files:
            continue
        predictor: Any = {"constant": f"constant:{mean}"}.get(name, name)
        predictor = str(files[name]) if name in files else predictor
        if name == "oracle":
            predictor = AsTold([LengthForecast.certain(one.output_tokens) for one in records])
        run = real_run(records, scheduler, predictor, int(held))
        runs.append({"round": round_number, "scheduler": scheduler, "predictor": name, **run})
        print(
            f"{scheduler:10} {name:10} {run['output_tokens_per_s']:7.1f} output tokens/s, "
            f"{run['num_preemptions']} preemptions, {run['different']} outputs of other length",
            flush=True,
        )
    settings = {"kv_tokens": int(held), "requests": len(records)}
    return {**settings, "runs": runs, **real_ratios(runs)}


def real_run(
    records: Sequence[LengthRecord], scheduler: str, predictor: Any, kv_tokens: int
) -> dict[str, Any]:
    """One run over the records' prompts."""
    stage_bytes = kv_tokens * LAYERS[0] * 2 * 3 * 64 * 4  # keys and values of the larger stage
    with LLM(
        MODEL, pipeline_parallel_size=2, partition=LAYERS, scheduler=scheduler,
        length_predictor=predictor, kv_cache_memory=stage_bytes,
    ) as llm:  # fmt: skip
        llm.generate([[5, 6, 7]], SamplingParams(max_tokens=4, ignore_eos=True))
        params = [SamplingParams(temperature=0.0, max_tokens=one.max_tokens) for one in records]
        outputs = llm.generate([list(one.token_ids) for one in records], params)
        summary = llm.summary()
    lengths = [len(output.outputs[0].token_ids) for output in outputs]
    return {
        "seconds": summary.wall_s,
        "output_tokens_per_s": summary.output_tokens_per_s,
        "num_preemptions": summary.num_preemptions,
        "num_switches": summary.num_switches,
        "different": sum(n != one.output_tokens for n, one in zip(lengths, records, strict=True)),
    }


def real_ratios(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Scheduler -> predictor -> median over the rounds of throughput over the oracle's."""
    rates = {
        (run["round"], run["scheduler"], run["predictor"]): run["output_tokens_per_s"]
        for run in runs
    }
    ratios: dict[str, dict[str, list[float]]] = {}
    for (number, scheduler, name), rate in rates.items():
        of_one = ratios.setdefault(scheduler, {})
        of_one.setdefault(name, []).append(rate / rates[number, scheduler, "oracle"])
    return {
        "to_oracle": {
            scheduler: {name: statistics.median(values) for name, values in of_one.items()}
            for scheduler, of_one in ratios.items()
        }
    }


# ---- cost


def cost_part(files: dict[str, Path], rounds: int, most: int, most_tokens: int) -> dict[str, Any]:
    """Seconds of forecasting the demo's prompts, and its share of the demo's run."""
    bodies = [json.loads(line)["body"] for line in DEMO.read_text().splitlines()]
    bodies = [body for body in bodies if "messages" in body][:most]
    tokens = [min(one["max_tokens"], most_tokens) for one in bodies]
    params = [SamplingParams(temperature=0.0, max_tokens=one) for one in tokens]
    with LLM(
        MODEL, pipeline_parallel_size=2, scheduler="td-pipe", length_predictor="max-tokens"
    ) as llm:
        llm.generate([[5, 6, 7]], SamplingParams(max_tokens=4, ignore_eos=True))
        llm.chat([one["messages"] for one in bodies], params)
        run_s = llm.summary().wall_s
        asked = [llm.tokenizer.encode_chat(one["messages"]) for one in bodies]
        prompts = [
            Prompt(i, tuple(one), param.max_tokens or 512)
            for i, (one, param) in enumerate(zip(asked, params, strict=True))
        ]
        found: dict[str, Any] = {"run_s": run_s, "prompts": len(prompts)}
        for name, path in files.items():
            found[name] = forecast_cost(path, llm, prompts, rounds, run_s)
            print(f"{name:10} {found[name]['share']:.4%} of a run of {run_s:.1f} s", flush=True)
    return found


def forecast_cost(
    path: Path, llm: LLM, prompts: Sequence[Prompt], rounds: int, run_s: float
) -> dict[str, Any]:
    """Loading, forecasting, and the head on as many states; the first time counts."""
    import numpy as np

    began_s = time.perf_counter()
    predictor = load_predictor(path, decode=llm.tokenizer.decode)
    load_s = time.perf_counter() - began_s
    times_s = []
    for _ in range(rounds):
        began_s = time.perf_counter()
        predictor.predict(prompts)
        times_s.append(time.perf_counter() - began_s)
    head_s = 0.0
    if predictor.head is not None:
        states = np.zeros((1, predictor.note.model.shape.hidden_size), np.float32)
        began_s = time.perf_counter()
        for _ in prompts:
            predictor.head.forecast_means(states)
        head_s = time.perf_counter() - began_s
    share = (times_s[0] + head_s) / run_s
    return {"load_s": load_s, "predict_s": times_s, "head_s": head_s, "share": share}


# ---- all parts


def made_up(folder: Path) -> tuple[LengthTable, dict[str, Path]]:
    """A table in which a prompt's tokens tell its output's length, and a predictor of it."""
    from tdpipe.lengths.learned_predictor import TrainingNote
    from tdpipe.lengths.length_evaluation import class_edges
    from tdpipe.lengths.length_training import train_text
    from tdpipe.lengths.model_identity import ModelIdentity, model_digest
    from tdpipe.lengths.predictor_file import save_predictor

    source = random.Random(0)
    records = []
    for index in range(240):
        token, part = source.randrange(8), "test" if index < 80 else "train"
        ids = (100 + token, *(source.randrange(1000) for _ in range(10)))
        length = 4 + 3 * token + source.randrange(4)
        records.append(LengthRecord(f"{part}/{index}", ids, length, "stop", 32))
    model = resolve_model(MODEL)
    identity = ModelIdentity(MODEL, model_digest(model.folder), model.config.shape())
    table = LengthTable(MODEL, identity.digest, 0.0, tuple(records))
    train = table.part("train")
    edges = class_edges([record.output_tokens for record in train])
    note = TrainingNote("text", identity, table.fingerprint(), 0.0, len(train), edges)
    path = folder / "text.safetensors"
    save_predictor(path, LearnedPredictor(note, train_text(train)))
    return table, {"text": path}


def given(options: argparse.Namespace) -> tuple[LengthTable, dict[str, Path]]:
    """The table and the files by kind."""
    kinds = load_predictors(options.predictors)
    return read_length_table(options.table), dict(zip(kinds, options.predictors, strict=True))


def main() -> None:
    """Run the parts asked for, one result file each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, help="lengths, of `tdpipe lengths collect`")
    parser.add_argument("--predictors", type=Path, nargs="*", default=[])
    parser.add_argument("--parts", default="simulated,real,cost")
    parser.add_argument("--requests", type=int, default=5000, help="simulated")
    parser.add_argument("--anew", default="", help="simulate these predictors and schedulers only")
    parser.add_argument("--real-requests", type=int, default=40)
    parser.add_argument("--real-schedulers", default="td-pipe,adaptive")
    parser.add_argument("--real-predictors", default=",".join(REAL_PREDICTORS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--kv-share", type=float, default=0.8, help="of the real runs' tokens")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="a made-up table, few requests")
    parser.add_argument("--folder", type=Path, help="where to write, instead of results/")
    options = parser.parse_args()
    if options.smoke:
        options.requests, options.real_requests, options.rounds = 16, 4, 1
        options.kv_share, options.real_schedulers = 2.0, "td-pipe"
        options.real_predictors = "oracle,constant"
        table, files = made_up(options.folder)
    else:
        table, files = given(options)
    settings = {
        "table": table.fingerprint(), "model": table.model, "temperature": table.temperature,
        "test_prompts": len(table.part("test")), "requests": options.requests,
        "smoke": options.smoke,
    }  # fmt: skip
    parts = options.parts.split(",")
    if "simulated" in parts:
        predictors = list(load_predictors(list(files.values())).values())
        cache = options.folder if options.smoke else options.table.parent
        told = list(tellings(table, predictors, cache))
        kept: list[dict[str, Any]] = []
        figures: dict[str, Any] = {}
        if options.anew:
            anew = options.anew.split(",")
            kept, commit = rows_on_file(options.folder, settings, anew)
            figures["kept"] = {"commit": commit, "but": anew}
        test = table.part("test")
        rows = simulated_part(told, test, options.requests, options.processes, kept)
        figures |= {"to_oracle": to_oracle(rows), "runs": rows}
        write_result("length_effect", settings, figures, options.folder)
    if "real" in parts:
        settings |= {"rounds": options.rounds, "kv_share": options.kv_share}
        found = real_part(table, files, options)
        write_result("length_effect_real", settings, found, options.folder)
    if "cost" in parts:
        most = (3, 20) if options.smoke else (1000, 2048)
        found = cost_part(files, options.rounds, *most)
        write_result("length_cost", settings, found, options.folder)


if __name__ == "__main__":
    main()
