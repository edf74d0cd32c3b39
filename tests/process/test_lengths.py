"""Forecasts by a stage; `tdpipe lengths` from a batch file to forecasts."""

import json
from dataclasses import replace

import numpy as np
import pytest

import synthetic_lengths as made_up
from reference_answers import MODEL
from tdpipe import LLM, SamplingParams
from tdpipe.cli.main import main
from tdpipe.execution.models.model_source import resolve_model
from tdpipe.execution.prompt_states import prompt_states
from tdpipe.frontend.predictor_setup import trained_file
from tdpipe.lengths.learned_predictor import LearnedPredictor, TrainingNote
from tdpipe.lengths.length_table import LengthRecord, read_length_table, write_length_table
from tdpipe.lengths.length_training import train_head, train_text
from tdpipe.lengths.model_identity import ModelIdentity, model_digest
from tdpipe.lengths.predictor_file import load_predictor, save_predictor
from tdpipe.lengths.prompt_depths import PromptStates
from tdpipe.text.tokenizer import Tokenizer

WORDS = ("cat", "house", "explain", "why", "the", "sky", "über", "狗")


def test_the_stage_with_the_layer_forecasts(source, tmp_path):
    """It is the first here, whose forecasts must find the samples of the last."""
    depth = 5
    prompts = [[1, 20, 300 + i] * (1 + i % 3) + [7 + i] for i in range(128)]
    records = [
        LengthRecord(f"train/{i}", tuple(prompt), 2 + 2 * (i % 8), "stop", 24)
        for i, prompt in enumerate(prompts)
    ]
    states = PromptStates((depth,), prompt_states(source.folder, prompts, [depth]))
    head, text = train_head(records, states), train_text(records)
    wanted = head.forecast_means(states.at(depth)[:24], [24] * 24)
    before = [one.mean_tokens for one in text.forecasts(prompts[:24], [24] * 24)]
    identity = ModelIdentity(MODEL, model_digest(source.folder), source.config.shape())
    note = TrainingNote("hidden", identity, "", 0.0, len(prompts), (4, 8, 12, 16))
    path = tmp_path / "head.safetensors"
    save_predictor(path, LearnedPredictor(note, text, head))
    with LLM(
        MODEL, pipeline_parallel_size=2, partition=(15, 15), kv_cache_memory="64MiB",
        length_predictor=str(path),
    ) as llm:  # fmt: skip
        llm.generate(prompts[:24], SamplingParams(max_tokens=24, temperature=0.0))
        told = [forecast for forecast, _ in llm.trace().forecasts.pairs()]
    assert sorted(told) == sorted(wanted) != sorted(before)
    assert len(set(wanted)) > 2


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of its own, and the model's folder outside it."""
    folder = resolve_model(MODEL).folder
    monkeypatch.setenv("TDPIPE_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def requests(tmp_path):
    """A batch file and results for it; the last request has none."""
    draws = np.random.default_rng(0)
    lines, results = [], []
    for index in range(60):
        text = " ".join(draws.choice(WORDS, 6))
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 50, "temperature": 0}
        line = {"custom_id": f"r{index}", "url": "/v1/chat/completions", "body": body}
        lines.append(json.dumps(line))
        usage = {"completion_tokens": 10 + 3 * text.count("explain")}
        answer = {"choices": [{"finish_reason": "stop"}], "usage": usage}
        results.append(json.dumps({"custom_id": f"r{index}", "response": {"body": answer}}))
    (tmp_path / "prompts.jsonl").write_text("\n".join([*lines, "{"]))
    (tmp_path / "answers.jsonl").write_text("\n".join([*results[:-1], results[-1][:30]]))
    return tmp_path


def test_command_from_results_to_forecasts(requests, cache, capsys):
    prompts, table = str(requests / "prompts.jsonl"), str(requests / "table.jsonl")
    model = ["--model", str(cache)]
    results = ["--results", str(requests / "answers.jsonl")]
    assert main(["lengths", "collect", "-i", prompts, "-o", table, *results, *model]) == 1
    shown = capsys.readouterr()
    assert "59 lengths" in shown.err and "2 requests left out" in shown.err
    made = read_length_table(requests / "table.jsonl")
    assert (len(made.records), made.temperature) == (59, 0.0)
    assert made.model_digest == model_digest(cache)
    messages = json.loads((requests / "prompts.jsonl").read_text().split("\n")[0])["body"]
    wanted = Tokenizer(cache).encode_chat(messages["messages"])
    assert made.records[0].token_ids == tuple(wanted) and made.records[0].max_tokens == 50

    assert main(["lengths", "train", "-i", table]) == 0
    path = trained_file(model_digest(cache))
    assert str(path) in capsys.readouterr().out and path.is_file()
    assert load_predictor(path, model_digest(cache)).note.num_prompts < 59

    assert main(["lengths", "evaluate", "-i", table, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert len(figures) == 3 and figures["max-tokens"]["p90_coverage"] == 1.0
    assert main(["lengths", "evaluate", "-i", table, "--predictor", str(path)]) == 0
    assert "p90 cover" in capsys.readouterr().out

    assert main(["lengths", "predict", "-i", prompts, "--predictor", str(path)]) == 1
    shown = capsys.readouterr()
    forecasts = [json.loads(line) for line in shown.out.splitlines()]
    assert [one["custom_id"] for one in forecasts] == [f"r{index}" for index in range(60)]
    assert all(1 <= one["mean_tokens"] <= 50 for one in forecasts) and "left out" in shown.err


def test_command_learns_from_states(tmp_path, cache, capsys):
    table = made_up.table(40)
    records = tuple(
        replace(one, token_ids=tuple(token % 49_152 for token in one.token_ids[:6]))
        for one in table.records
    )
    made = replace(table, model=str(cache), model_digest=model_digest(cache), records=records)
    path, output = tmp_path / "table.jsonl", tmp_path / "head.safetensors"
    write_length_table(path, made)
    command = ["-i", str(path)]
    assert main(["lengths", "train", *command, "--kind", "hidden", "-o", str(output)]) == 0
    assert main(["lengths", "evaluate", *command, "--predictor", str(output)]) == 0
    shown = capsys.readouterr()
    assert "head, state" in shown.out and "head, text" in shown.out
    assert not trained_file(model_digest(cache)).exists() and output.is_file()


def test_command_runs_the_prompts(requests, cache, capsys):
    lines = (requests / "prompts.jsonl").read_text().splitlines()[:2]
    few = requests / "few.jsonl"
    few.write_text("\n".join(line.replace('"max_tokens": 50', '"max_tokens": 3') for line in lines))
    output = requests / "table.jsonl"
    command = ["lengths", "collect", "-i", str(few), "-o", str(output), "--model", str(cache)]
    assert main([*command, "--device", "cpu", "--kv-cache-memory", "64MiB"]) == 0
    records = read_length_table(output).records
    assert {one.custom_id for one in records} == {"r0", "r1"}
    assert all(one.output_tokens <= 3 == one.max_tokens for one in records)


@pytest.mark.parametrize(
    ("action", "options"),
    [
        ("collect", ["-i", "absent", "-o", "out"]),
        ("train", ["-i", "absent"]),
        ("train", ["-i", "absent", "--kind", "magic"]),
        ("evaluate", ["-i", "absent"]),
        ("predict", ["-i", "absent", "--predictor", "absent"]),
    ],
)
def test_command_refuses_in_one_line(action, options, capsys):
    assert main(["lengths", action, *options]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and shown.err.startswith("error: ")


def test_a_table_of_another_model(tmp_path, cache, capsys):
    path = tmp_path / "table.jsonl"
    write_length_table(path, replace(made_up.table(40), model=str(cache)))
    for command in (["train"], ["evaluate"]):
        assert main(["lengths", *command, "-i", str(path)]) == 2
        assert "another" in capsys.readouterr().err.replace("other weights", "another")
