"""tdpipe plan: the pick with its reason, the table, ranges, and one line for every error."""

import json

import pytest

from tdpipe.cli.main import main
from tdpipe.cli.plan import device_counts, reason_text
from tdpipe.core.errors import ConfigError
from tdpipe.cost.hardware_catalogue import find_device
from tdpipe.cost.model_catalogue import find_model
from tdpipe.simulation.plan import PlanQuestion
from tdpipe.simulation.plan_search import PlanSearch
from tdpipe.simulation.scenario import load_workload

BASE = ["plan", "--gpu", "A10", "--model", "llama-3.1-8b", "--workload", "sharegpt"]
SMALL = [*BASE, "--requests", "40", "--schedulers", "pp-hybrid,tp-hybrid", "--num-gpus", "2"]


def error_line(arguments, capsys):
    """The one line that a refused command prints."""
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and shown.err.startswith("error: ")
    return shown.err


def test_pick_and_table(capsys):
    assert main(SMALL) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    heads = [line.split()[0] for line in lines[:6]]
    assert heads == ["plan", "model", "workload", "predicted", "memory", "because"]
    assert "GiB of weights" in lines[4] and "KV cache" in lines[4]
    head = next(index for index, line in enumerate(lines) if line.startswith("layout"))
    layouts = {line.split()[0] for line in lines[head + 1 :]}
    assert layouts == {"TP1", "TP2", "PP2"}
    best = lines[head + 1].split()
    assert lines[0].startswith(f"plan         {best[0]} {best[1]} on ") and best[2] == "simulated"
    assert "simulating " in shown.err


def test_default_schedulers_run(capsys):
    assert main([*BASE, "--requests", "20", "--num-gpus", "2"]) == 0
    assert "adaptive" in capsys.readouterr().out


def test_json(capsys):
    assert main([*SMALL, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    best = result["best"]
    assert best == result["plans"][0] and best["basis"] == "simulated"
    assert result["plan"] == f"{best['layout']} {best['scheduler']}"
    assert len(best["memory_per_device"]) == len(best["settings"]["layers"])
    for stage in best["memory_per_device"]:
        assert 0 < stage["weights_gib"] + stage["kv_gib"] <= 0.9 * 24
    rates = [plan["tokens_per_s"] for plan in result["plans"] if plan["basis"] == "simulated"]
    assert rates == sorted(rates, reverse=True)


def test_a_range_is_a_line_per_count(capsys):
    many = [*SMALL[:-1], "1-3"]
    assert main(many) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["at", "1", "2", "3"]
    assert main([*many, "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)["counts"]
    assert [one["num_gpus"] for one in counts] == [1, 2, 3]
    rates = [one["tokens_per_s"] for one in counts]
    assert rates == sorted(rates)


def test_a_range_whose_begin_does_not_fit(capsys):
    large = [*SMALL[:-1], "6-7", "--model", "llama-3.1-70b"]
    assert main(large) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("no plan") and "7 such devices would do" in lines[0]
    assert lines[-1].split()[0] == "7"
    assert main([*large, "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)["counts"]
    assert "such devices" in counts[0]["error"] and counts[1]["tokens_per_s"] > 0


def test_a_range_that_does_not_fit(capsys):
    message = error_line([*SMALL[:-1], "1-2", "--model", "llama-3.1-70b"], capsys)
    assert "2 x A10" in message and "7 such devices would do" in message


def test_device_counts():
    assert device_counts("4") == (4, 4) and device_counts(" 1-8") == (1, 8)
    for text in ("", "x", "1-", "-3", "1-2-3", "0", "65", "8-1", "1-99"):
        with pytest.raises(ConfigError, match="num_gpus="):
            device_counts(text)


def test_reasons_when_there_is_little_to_compare():
    workload = load_workload("sharegpt", 20)
    shape, device = find_model("llama-3.1-8b"), find_device("A10")
    question = PlanQuestion(shape, device, workload, ("pp-hybrid",))
    ranking = PlanSearch(question).ranking(1)
    assert reason_text(ranking) == "nothing else fits"
    assert "pp-hybrid" in reason_text(PlanSearch(question).ranking(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpu", "A11"], "gpu='A11': use one of L20"),
        (["--model", "gpt-5"], "model='gpt-5': use one of"),
        (["--model", "llama-3.1-70b"], "7 such devices would do"),
        (["--workload", "absent.csv"], "workload='absent.csv': there is no such file"),
        (["--schedulers", "fifo"], "scheduler='fifo'"),
        (["--predictor", "crystal"], "predictor='crystal'"),
        (["--num-gpus", "0"], "num_gpus=0"),
        (["--num-gpus", "four"], "num_gpus='four'"),
        (["--requests", "-1"], "requests=-1"),
        (["--engine-overhead-ms", "-1"], "engine_overhead_s=-0.001"),
    ],
)
def test_bad_settings(capsys, options, message):
    assert message in error_line([*SMALL, *options], capsys)


def test_a_workload_that_cannot_fit(tmp_path, capsys):
    file = tmp_path / "huge.csv"
    file.write_text("prompt_tokens,output_tokens\n8,4\n250000,4\n")
    options = ["--workload", str(file), "--requests", "2"]
    message = error_line([*SMALL, *options], capsys)
    assert "a request of 250004 tokens need" in message and "such devices would do" in message


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    assert capsys.readouterr().out.count("tdpipe plan --gpu") == 3
