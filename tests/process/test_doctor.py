"""tdpipe doctor: facts, links that work, and links that do not."""

import sys
from dataclasses import replace

from tdpipe.cli.main import main
from tdpipe.config.links_file import load_links
from tdpipe.cost.collectives import Link as LinkTimes
from tdpipe.execution import link_check
from tdpipe.execution.link_check import AllReduce, Link, LinkReport, check_links


def test_links_of_three_ranks():
    report = check_links(3, 60.0, "cpu")
    assert report.backend == "gloo" and report.all_work, report
    assert [(link.source, link.target) for link in report.links] == [
        (a, b) for a in range(3) for b in range(3) if a != b
    ]
    times = [*report.links, report.all_reduce]
    assert all(one.bytes_per_s > 1e6 and 0 < one.latency_s < 1 for one in times)


def test_profile_keeps_links(monkeypatch, tmp_path, capsys):
    """What check_links finds, for plan and simulate."""
    report = LinkReport("gloo", (Link(0, 1, 2e9, 1e-5), Link(1, 0, 1e9, 2e-5)))
    path = tmp_path / "links.json"
    monkeypatch.setattr(link_check, "check_links", lambda *_: report)
    command = ["profile", "-t", "2", "--links", str(path)]
    assert main(command) == 2 and "not all of them work" in capsys.readouterr().err
    report = replace(report, all_reduce=AllReduce(5e-5, 3e8))
    assert main(command) == 0 and "50 us a step + 0.30 GB/s" in capsys.readouterr().out
    found = load_links(path)
    assert found.num_ranks == 2 and found.link(2, 1) == LinkTimes(2e9, 1e-5, 3e8, 5e-5)
    assert main(["profile", "--links", str(path)]) == 2
    assert "one rank has no links" in capsys.readouterr().err


def test_report(capsys):
    assert main(["doctor", "--device", "cpu", "--time-out", "60"]) == 0
    shown = capsys.readouterr().out
    for word in ("python", "memory", "torch", "gloo", "0 -> 1", "1 -> 0", "GB/s", "sum of all ok"):
        assert word in shown


def test_a_rank_that_hangs_is_ended_and_advice_given(monkeypatch, capsys):
    hang = [sys.executable, "-c", "import time; time.sleep(600)"]
    real = link_check.subprocess.Popen
    started = []

    def popen(command, **settings):
        started.append(
            real(hang if command[-3] == "2" or len(started) == 1 else command, **settings)
        )
        return started[-1]

    monkeypatch.setattr(link_check.subprocess, "Popen", popen)
    assert main(["doctor", "--device", "cpu", "--time-out", "4"]) == 1
    shown = capsys.readouterr().out
    assert "failed  no answer within 4 s" in shown and "GLOO_SOCKET_IFNAME" in shown
    assert all(process.poll() is not None for process in started)


def test_advice_for_cards():
    report = LinkReport("nccl", (Link(0, 1, error="no answer"),))
    assert not report.all_work and "NCCL_P2P_DISABLE=1" in report.advice()[0]


def test_bad_arguments(capsys):
    assert main(["doctor", "--ranks", "1"]) == 2
    assert main(["doctor", "--time-out", "0"]) == 2
    assert main(["doctor", "--ranks", "2", "--device", "cuda"]) == 2
    assert capsys.readouterr().err.count("error: ") == 3
