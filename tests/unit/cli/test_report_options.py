"""What a run tells beside its results: metrics, their server, the log and the page."""

import argparse
import json
import logging
import socket
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from handmade_runs import make_record
from tdpipe.cli.main import main
from tdpipe.cli.metrics_server import MetricsServer
from tdpipe.cli.report_options import RunReports, add_report_options
from tdpipe.core.errors import ConfigError, StageFailed
from tdpipe.outputs import Progress

MOMENT = Progress(
    num_finished=3,
    num_requests=9,
    num_prompt_tokens=100,
    num_output_tokens=250,
    phase="mixed",
    kv_used_share=0.25,
    elapsed_s=12.0,
    num_failed=1,
    num_restarts=2,
    num_preemptions=4,
    num_waiting=5,
    num_running=6,
    entered_prompt_tokens=120,
    ended=(("stop", 2), ("length", 1)),
    left_s=30.0,
    stage_busy_shares=(0.5, 0.75),
)


class View:
    """Keeps what it is told."""

    def __init__(self):
        self.said, self.moments = [], []

    def say(self, message):
        self.said.append(message)

    def show(self, progress):
        self.moments.append(progress)


class Engine:
    """An engine with a run behind it."""

    def __init__(self, record):
        self.record = lambda: record
        self.config = argparse.Namespace(recorded=lambda: {"scheduler": "td-pipe"})


def options(*given):
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="tiny")
    add_report_options(parser)
    return parser.parse_args(list(map(str, given)))


def scrape(port):
    """Samples by (name, labels without the model's)."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        text = response.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k not in ("model_name", "engine")}
            found[sample.name, *labels.values()] = sample.value
            if sample.name.startswith("vllm:"):
                assert sample.labels["model_name"] == "tiny" and sample.labels["engine"] == "0"
    return found


def test_prometheus_shows_the_latest_moment():
    with MetricsServer(0, "tiny") as server:
        assert scrape(server.port)["tdpipe:phase", "starting"] == 1
        server.show(MOMENT)
        found = scrape(server.port)
    assert {
        ("vllm:num_requests_running",): 6,
        ("vllm:num_requests_waiting",): 5,
        ("vllm:kv_cache_usage_perc",): 0.25,
        ("vllm:prompt_tokens_total",): 120,
        ("vllm:generation_tokens_total",): 250,
        ("vllm:num_preemptions_total",): 4,
        ("vllm:request_success_total", "stop"): 2,
        ("vllm:request_success_total", "length"): 1,
        ("tdpipe:requests_failed_total",): 1,
        ("tdpipe:restarts_total",): 2,
        ("tdpipe:left_seconds",): 30,
        ("tdpipe:phase", "mixed"): 1,
        ("tdpipe:stage_busy_share", "1"): 0.75,
    }.items() <= found.items()
    with MetricsServer(server.port, "tiny") as again:  # the port was given back
        assert again.port == server.port


def test_ports_that_cannot_be_listened_on(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"metrics_port={port}: .*use another port"):
            MetricsServer(port, "tiny")
        source = tmp_path / "in.jsonl"
        source.write_text('{"custom_id": "a"}\n')
        command = ["run-batch", "-i", str(source), "-o", str(tmp_path / "out.jsonl")]
        assert main([*command, "--metrics-port", str(port)]) == 2
        shown = capsys.readouterr().err
        assert shown.count("\n") == 1 and shown.startswith(f"error: metrics_port={port}")
    with pytest.raises(ConfigError, match="use 0"):
        MetricsServer(70000, "tiny")


def test_files_of_a_run_that_ends_well(tmp_path):
    names = [tmp_path / "new" / name for name in ("r.html", "m.json", "l.jsonl")]
    arguments = options("--report", names[0], "--metrics", names[1], "--log-file", names[2])
    view = View()
    with RunReports(arguments, view) as reports:
        reports.begin(Engine(make_record()))
        reports.say("warning: what")
        reports.show(MOMENT)
        reports.show(MOMENT)
        logging.getLogger("tdpipe").warning("a part says %s", "this")
    assert view.said == ["warning: what"] and view.moments == [MOMENT, MOMENT]
    assert "did not end well" not in names[0].read_text()
    metrics = json.loads(names[1].read_text())
    assert metrics["summary"]["num_preemptions"] == 3 and metrics["summary"]["bound_share"] > 0
    assert metrics["settings"]["scheduler"] == "td-pipe"
    assert metrics["errors"] == {"num_failed": 1, "run": None}
    assert metrics["forecasts"]["num_requests"] == 30
    lines = [json.loads(line) for line in names[2].read_text().splitlines()]
    assert [line.get("event") for line in lines] == ["start", "message", "progress", None, "end"]
    assert lines[1]["message"] == "warning: what" and lines[2]["num_output_tokens"] == 250
    assert (lines[3]["level"], lines[3]["message"]) == ("warning", "a part says this")
    assert all(line["time"].endswith("+00:00") for line in lines)
    assert [line.split()[-1] for line in reports.written] == [str(names[1]), str(names[0])]


def test_a_run_that_ends_badly_leaves_what_there_is(tmp_path):
    names = [tmp_path / name for name in ("r.html", "m.json", "l.jsonl")]
    arguments = options("--report", names[0], "--metrics", names[1], "--log-file", names[2])
    with pytest.raises(StageFailed), RunReports(arguments, View()) as reports:
        reports.begin(Engine(make_record()))
        raise StageFailed(1, "killed", "Traceback\n  ...")
    assert "did not end well: stage 1 failed: killed<" in names[0].read_text()
    assert json.loads(names[1].read_text())["errors"]["run"] == "stage 1 failed: killed"
    last = json.loads(names[2].read_text().splitlines()[-1])
    assert (last["event"], last["error"]) == ("failed", "stage 1 failed: killed")


def test_a_run_that_computed_nothing_leaves_a_log_only(tmp_path):
    names = [tmp_path / name for name in ("r.html", "l.jsonl")]
    arguments = options("--report", names[0], "--log-file", names[1])
    view = View()
    with pytest.raises(KeyboardInterrupt), RunReports(arguments, view) as reports:
        reports.begin(Engine(None))
        raise KeyboardInterrupt
    assert view.said == ["no batch was run: there is nothing to report"]
    assert not names[0].exists() and '"error": "interrupted"' in names[1].read_text()


def test_a_run_cut_short_in_good_order(tmp_path):
    with RunReports(options("--report", tmp_path / "r.html"), View()) as reports:
        reports.begin(Engine(make_record()))
        reports.cut_short("interrupted, 7 lines are left")
    assert "did not end well: interrupted, 7 lines" in (tmp_path / "r.html").read_text()


def test_what_ended_the_run_matters_more_than_a_lost_report(tmp_path):
    path, view = tmp_path / "new" / "r.html", View()
    with pytest.raises(StageFailed), RunReports(options("--report", path), view) as reports:
        reports.begin(Engine(make_record()))
        path.mkdir()
        raise StageFailed(0, "gone")
    assert "cannot be written" in view.said[-1] and reports.written == []


@pytest.mark.parametrize("option", ["--report", "--metrics", "--log-file"])
def test_files_that_cannot_be_written_are_refused_at_once(tmp_path, option):
    with pytest.raises(ConfigError, match="it is a folder"):
        RunReports(options(option, tmp_path), View())


def test_report_of_a_simulated_run(tmp_path, capsys):
    timeline, page = str(tmp_path / "t.json"), tmp_path / "report.html"
    simulate = ["simulate", "--gpu", "A10", "--model", "llama-3.1-8b", "--workload", "sharegpt"]
    limits = ["--requests", "40", "--num-gpus", "2", "--schedulers", "td-pipe"]
    assert main([*simulate, *limits, "--timeline", timeline]) == 0
    assert main(["report", timeline, "-o", str(page)]) == 0
    assert "decode: 0 waiting" in page.read_text() and "finished requests" in page.read_text()
    capsys.readouterr()
    assert main(["report", str(page)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "the file is not JSON" in error
