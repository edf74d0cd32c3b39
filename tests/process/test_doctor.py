"""tdpipe doctor: facts, links that work, and links that do not."""

import sys

from tdpipe.cli.main import main
from tdpipe.execution import link_check
from tdpipe.execution.link_check import Link, LinkReport, check_links


def test_links_of_three_ranks():
    report = check_links(3, 60.0, "cpu")
    assert report.backend == "gloo" and report.all_work, report
    assert [(link.source, link.target) for link in report.links] == [
        (a, b) for a in range(3) for b in range(3) if a != b
    ]
    assert all(link.bytes_per_s > 1e6 and 0 < link.latency_s < 1 for link in report.links)


def test_report(capsys):
    assert main(["doctor", "--device", "cpu", "--time-out", "60"]) == 0
    shown = capsys.readouterr().out
    for word in ("python", "memory", "torch", "gloo", "0 -> 1", "1 -> 0", "GB/s"):
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
