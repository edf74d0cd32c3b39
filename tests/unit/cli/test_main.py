"""The command line: errors are one line and an exit status, and nothing is started for them."""

import sys

import pytest

from tdpipe.cli import doctor
from tdpipe.cli.main import main
from tdpipe.cli.progress_view import PLAIN_INTERVAL_S, ProgressView
from tdpipe.core.errors import StageFailed
from tdpipe.outputs import Progress

GOOD_LINE = (
    '{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}\n'
)


@pytest.fixture
def batch(tmp_path):
    """Arguments of a batch run whose input is good."""
    source = tmp_path / "in.jsonl"
    source.write_text(GOOD_LINE)
    return ["run-batch", "-i", str(source), "-o", str(tmp_path / "out.jsonl")]


def error_line(arguments, capsys):
    """The one line that a refused command prints."""
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and shown.err.startswith("error: ")
    return shown.err


def test_missing_and_empty_input(batch, tmp_path, capsys):
    batch[2] = str(tmp_path / "absent.jsonl")
    assert "there is no such file" in error_line(batch, capsys)
    (tmp_path / "empty.jsonl").touch()
    batch[2] = str(tmp_path / "empty.jsonl")
    assert "the file is empty" in error_line(batch, capsys)
    batch[2] = str(tmp_path)
    assert "it is a folder" in error_line(batch, capsys)


def test_output_that_cannot_be_written(batch, tmp_path, capsys):
    (tmp_path / "file").touch()
    source, batch[4] = batch[2], str(tmp_path / "file" / "out.jsonl")
    assert "cannot be written" in error_line(batch, capsys)
    batch[4] = str(tmp_path)
    assert "it is a folder" in error_line(batch, capsys)
    batch[4] = source
    assert "it is the input" in error_line(batch, capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "no-such-model"], "model='no-such-model'"),
        (["--scheduler", "fifo"], "td-pipe, pp-separate, pp-hybrid"),
        (["--dtype", "int3"], "float32"),
        (["--device", "abacus"], "cpu"),
        (["--kv-cache-memory", "much"], "kv_cache_memory='much'"),
        (["--partition", "16,x"], "partition='16,x'"),
        (["-p", "0"], "pipeline_parallel_size=0"),
        (["--block-size", "-1"], "block_size=-1"),
        (["--length-predictor", "crystal"], "length_predictor='crystal'"),
        (["--gpu-memory-utilization", "1.5"], "gpu_memory_utilization=1.5"),
    ],
)
def test_bad_settings(batch, capsys, options, message):
    assert message in error_line([*batch, *options], capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-tokens", "0"], "max_tokens=0"),
        (["--temperature", "-1"], "temperature=-1.0"),
        (["--top-p", "0"], "top_p=0.0"),
        (["--top-k", "-3"], "top_k=-3"),
    ],
)
def test_bad_sampling(capsys, options, message):
    assert message in error_line(["generate", "hello", *options], capsys)


def test_doctor_ranks(capsys):
    assert "ranks=1" in error_line(["doctor", "--ranks", "1"], capsys)
    assert "time-out=0" in error_line(["doctor", "--time-out", "0"], capsys)


def test_without_a_command_the_help(capsys):
    assert main([]) == 0
    assert "run-batch" in capsys.readouterr().out


def test_wrong_options_exit_with_usage(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["run-batch", "-i", "x"])
    assert caught.value.code == 2 and "-o/--output" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "shown"),
    [([], "error: stage 1 failed: out of memory\n"), (["--verbose"], "Traceback")],
)
def test_failed_stage(monkeypatch, capsys, options, shown):
    def fail(arguments):
        raise StageFailed(1, "out of memory", "Traceback (most recent call last)")

    monkeypatch.setattr(doctor, "run", fail)
    assert main([*options, "doctor"]) == 3
    text = capsys.readouterr().err
    assert shown in text and (text.count("\n") == 1) == (not options)


def test_interrupt(monkeypatch, capsys):
    def interrupt(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "run", interrupt)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_plain_progress_comes_now_and_then(capsys):
    assert not sys.stderr.isatty()
    with ProgressView() as view:
        for elapsed_s in (0.0, 1.0, PLAIN_INTERVAL_S + 1):
            view.show(Progress(1, 4, 30, 9, "decode", 0.5, elapsed_s))
        view.say("done")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and lines[-1] == "done"
    assert "first token" in lines[0]
    assert "1/4 requests" in lines[2] and "decode phase, KV cache 50% used" in lines[2]
