"""tdpipe simulate: a table, JSON, timelines and figures; every bad setting is one line."""

import json
import sys

import pytest

from tdpipe.cli import plots
from tdpipe.cli.main import main
from tdpipe.cli.step_progress import StepProgress
from tdpipe.cli.text_table import seconds_text, text_table
from tdpipe.config.links_file import save_links
from tdpipe.cost.measured_links import MeasuredLinks, PairTimes

BASE = ["simulate", "--gpu", "A10", "--model", "llama-3.1-8b", "--workload", "sharegpt"]
SMALL = [*BASE, "--requests", "40", "--num-gpus", "2"]
TWO = [*SMALL, "--schedulers", "td-pipe,pp-hybrid"]


def error_line(arguments, capsys):
    """The one line that a refused command prints."""
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and shown.err.startswith("error: ")
    return shown.err


def test_table(capsys):
    assert main([*SMALL, "--schedulers", "td-pipe,pp-hybrid,tp-hybrid"]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0] == "llama-3.1-8b on 2 x A10, PP2, layers 17,15"
    assert "40 requests" in lines[1]
    rows = {line.split()[0]: line.split() for line in lines[-3:]}
    assert rows["td-pipe"][1] == "PP2" and rows["tp-hybrid"][1] == "TP2"
    assert all(row[-6] in ("chain", "compute", "memory") for row in rows.values())
    assert "simulating 3/3 tp-hybrid, 40 requests" in shown.err


def test_default_schedulers_run(capsys):
    assert main(SMALL) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[-3:]]
    assert names == ["adaptive", "td-pipe", "pp-hybrid"]


def test_json(capsys):
    assert main([*TWO, "--json", "--predictor", "oracle", "--engine-overhead-ms", "2"]) == 0
    result = json.loads(capsys.readouterr().out)
    first, second = result["runs"]
    assert (first["scheduler"], second["scheduler"]) == ("td-pipe", "pp-hybrid")
    assert first["settings"]["predictor"] == "oracle"
    assert first["settings"]["engine_overhead_s"] == 0.002
    assert first["settings"]["requests"] == 40
    assert 0 < first["bound_share"] <= 1 and len(first["busy_shares"]) == 2
    tokens = first["settings"]["prompt_tokens"] + first["settings"]["output_tokens"]
    assert first["tokens_per_s"] == pytest.approx(tokens / first["makespan_s"])


def test_all_leaves_out_what_the_devices_cannot_do(capsys):
    """A model of 40 heads and 64 layers on 48 devices."""
    more = ["--model", "qwen2.5-32b", "--num-gpus", "48"]
    assert main([*BASE, *more, "--requests", "10", "--schedulers", "all"]) == 0
    table = capsys.readouterr().out
    assert "token-throttling" in table and "tp-hybrid" not in table


def test_layouts(capsys):
    one = [*BASE, "--requests", "10", "--schedulers", "pp-hybrid"]
    layouts = {
        "PP2xTP2": ["--num-gpus", "4", "--tensor-parallel-size", "2"],
        "PP3": ["-p", "3"],
        "TP2": ["--tensor-parallel-size", "2"],
        "TP1": [],
    }
    for layout, options in layouts.items():
        assert main([*one, *options]) == 0
        assert f", {layout}, " in capsys.readouterr().out


def test_a_model_of_ones_own(tmp_path, capsys):
    config = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 4, "hidden_size": 256}
    config |= {"num_attention_heads": 4, "intermediate_size": 512, "vocab_size": 1000}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in (tmp_path, tmp_path / "config.json"):
        assert main([*TWO, "--model", str(name)]) == 0
        assert "layers 2,2" in capsys.readouterr().out


def test_broken_models(tmp_path, capsys):
    assert "has no config.json" in error_line([*TWO, "--model", str(tmp_path)], capsys)
    file = tmp_path / "config.json"
    for text, message in (("{", "is not JSON"), ("[]", "JSON object"), ("{}", "architecture=")):
        file.write_text(text)
        assert message in error_line([*TWO, "--model", str(file)], capsys)


def test_timelines(tmp_path, capsys):
    assert main([*TWO, "--timeline", str(tmp_path / "new" / "run.json")]) == 0
    files = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert files == ["run-pp-hybrid.json", "run-td-pipe.json"]
    trace = json.loads((tmp_path / "new" / "run-td-pipe.json").read_text())
    assert trace["otherData"]["scheduler"] == "td-pipe"
    assert main([*SMALL, "--schedulers", "td-pipe", "--timeline", str(tmp_path / "x.json")]) == 0
    assert (tmp_path / "x.json").exists()
    assert "written" in capsys.readouterr().out


def test_figures(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    names = "td-pipe,pp-hybrid,pp-separate,tp-hybrid"
    assert main([*SMALL, "--schedulers", names, "--plots", str(tmp_path / "figures")]) == 0
    files = {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    stems = ("bubbles", "kv-use", "throughput")
    assert sorted(files) == sorted(f"{stem}.{kind}" for stem in stems for kind in ("png", "svg"))
    assert all(files[f"{stem}.png"].startswith(b"\x89PNG") for stem in stems)
    assert b"stage 1" in files["bubbles.svg"] and b"decode phase" in files["kv-use.svg"]
    assert b"no scheduler can be faster" in files["throughput.svg"]
    capsys.readouterr()
    assert main([*SMALL, "--schedulers", names, "--plots", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "kv-use.svg").read_bytes() == files["kv-use.svg"]


def test_figures_without_matplotlib(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plots.importlib.util, "find_spec", lambda name: None)
    message = error_line([*TWO, "--plots", str(tmp_path)], capsys)
    assert "pip install tdpipe[plots]" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpu", "A11"], "gpu='A11': use one of L20"),
        (["--model", "gpt-5"], "model='gpt-5': use one of"),
        (["--model", "llama-3.1-70b"], "GiB on a device"),
        (["--workload", "absent.csv"], "workload='absent.csv': there is no such file"),
        (["--schedulers", "fifo"], "scheduler='fifo'"),
        (["--schedulers", ""], "schedulers=''"),
        (["--predictor", "crystal"], "predictor='crystal'"),
        (["--predictor", "constant:0"], "use 1 token or more"),
        (["--num-gpus", "0"], "num_gpus=0"),
        (["--num-gpus", "65"], "num_gpus=65"),
        (["--num-gpus", "64"], "use 1 to 32 stages"),
        (["-p", "0"], "pipeline_parallel_size=0"),
        (["-p", "3"], "num_gpus=2: 3 stages of 1 devices are 3"),
        (["--tensor-parallel-size", "0"], "tensor_parallel_size=0"),
        (["--num-gpus", "33", "--tensor-parallel-size", "33"], "use 1 to 32, the model's att"),
        (["--requests", "0"], "requests=0"),
        (["--engine-overhead-ms", "-1"], "engine_overhead_s=-0.001"),
    ],
)
def test_bad_settings(capsys, options, message):
    assert message in error_line([*TWO, *options], capsys)


def test_a_workload_that_cannot_fit(tmp_path, capsys):
    file = tmp_path / "huge.csv"
    file.write_text("prompt_tokens,output_tokens\n8,4\n9000000,4\n")
    message = error_line([*TWO, "--workload", str(file), "--requests", "2"], capsys)
    assert "9000004 tokens" in message and "KV cache of this layout holds" in message


def test_outputs_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert "it is a folder" in error_line([*TWO, "--timeline", str(tmp_path)], capsys)
    inside = str(tmp_path / "file" / "x")
    assert "cannot be made" in error_line([*TWO, "--timeline", inside], capsys)
    pytest.importorskip("matplotlib")
    assert "cannot be made" in error_line([*TWO, "--plots", inside], capsys)


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit):
        main(["simulate", "--help"])
    assert capsys.readouterr().out.count("tdpipe simulate --gpu") == 3


def test_tables_and_times():
    assert text_table(("name", "n"), [("a", "10"), ("long name", "9")]) == [
        "name        n",
        "a          10",
        "long name   9",
    ]
    shown = [seconds_text(seconds) for seconds in (0.61, 59.96, 725.0, 40_000.0)]
    assert shown == ["0.61 s", "60.0 s", "725.0 s", "11:06 h"]


def test_progress_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not sys.stderr.isatty()
    for num_steps in (2, None):
        with StepProgress(num_steps) as progress:
            progress.step("first")
            progress.step("[second]")
        assert "simulating" not in capsys.readouterr().err


def test_a_simulation_over_measured_links(tmp_path, capsys):
    """Sums over slow links slow tensor parallelism, and a pipeline hardly."""
    path = tmp_path / "links.json"
    slow = MeasuredLinks(
        "gloo", 2, (PairTimes(0, 1, 1e8, 1e-3), PairTimes(1, 0, 1e8, 1e-3)), 1e-3, 1e8
    )
    save_links(path, slow)
    command = ["simulate", "--gpu", "L20", "--model", "llama-3.1-8b", "--workload", "sharegpt"]
    command += [
        "--num-gpus",
        "2",
        "--requests",
        "20",
        "--schedulers",
        "pp-hybrid,tp-hybrid",
        "--json",
    ]
    makespans = []
    for more in ([], ["--links", str(path)]):
        assert main([*command, *more]) == 0
        runs = json.loads(capsys.readouterr().out)["runs"]
        makespans.append([run["makespan_s"] for run in runs])
    (pp, tp), (slow_pp, slow_tp) = makespans
    assert pp < slow_pp < 1.5 * pp and slow_tp > 4 * tp
    assert main([*command, "--links", str(tmp_path / "none.json")]) == 2
    assert "links=" in capsys.readouterr().err
