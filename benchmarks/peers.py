"""tdpipe, transformers and vLLM on the same workload and cores, alternately.

    python benchmarks/peers.py --vllm-python PATH/bin/python [--requests 200] [--rounds 3]

Writes benchmarks/results/peers.json with every raw run, and prints a table. Contenders are loaded
once; in each round they take turns, and those that wait are stopped, so that they use no core.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from peer_protocol import MARK
from result_record import ROOT, write_result
from tdpipe.execution.models.model_source import resolve_model
from workload_lognormal import make_workload

HERE = Path(__file__).parent
REPLICAS = "replicas"  # engines of one stage each, as many as the others have stages
TDPIPE = ("adaptive", "td-pipe", "pp-separate", "pp-hybrid")
# The best settings found for two cores: one process, both cores, none held back.
VLLM_ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "0-1",
    "OMP_NUM_THREADS": "2",
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    "VLLM_CPU_KVCACHE_SPACE": "4",
}
VLLM_STAGES_ENVIRONMENT = {
    **VLLM_ENVIRONMENT,
    "VLLM_CPU_OMP_THREADS_BIND": "0|1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "2",  # of half the layers: as many tokens as above
}


class Contender:
    """A contender's process; stopped whenever it is not its turn."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        self.name = name
        self.environment = environment
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **environment},
            text=True,
        )

    def wait_until_loaded(self) -> None:
        """Let it load and warm up, then stop it until its turn comes."""
        self._answer()
        self._signal(signal.SIGSTOP)

    def run(self) -> dict[str, Any]:
        """One round; its figures."""
        self._signal(signal.SIGCONT)
        self._write("run\n")
        answer = self._answer()
        self._signal(signal.SIGSTOP)
        return answer

    def end(self) -> None:
        """End the process and those it started."""
        self._signal(signal.SIGCONT)
        tree = self._tree()
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
        for process in tree:
            if process.is_running():
                process.kill()

    def _write(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                answer: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return answer
        self._log.seek(0)
        raise SystemExit(f"{self.name} ended:\n{self._log.read().decode()[-3000:]}")

    def _tree(self) -> list[psutil.Process]:
        parent = psutil.Process(self._process.pid)
        return [parent, *parent.children(recursive=True)]

    def _signal(self, number: signal.Signals) -> None:
        for process in self._tree():
            process.send_signal(number)


def command_of(name: str, options: argparse.Namespace, folder: str) -> Contender:
    """Start the contender `name`."""
    workload = [str(options.requests), str(options.seed), str(options.scale)]
    if name.removesuffix("-kv16").removesuffix("-int8") in (*TDPIPE, REPLICAS):
        script = [sys.executable, str(HERE / "peer_tdpipe.py"), name, str(options.stages)]
        return Contender(f"tdpipe {name}", [*script, *workload], {})
    if name == "transformers":
        script = [
            sys.executable,
            str(HERE / "peer_transformers.py"),
            folder,
            options.static_batches,
        ]
        # In a trial one thread: two wait for each other for minutes where a core is shared.
        return Contender(
            name, [*script, *workload], {"OMP_NUM_THREADS": "1" if options.smoke else "2"}
        )
    stages = {"vllm": "1", "vllm-pp": "2"}[name]
    environment = VLLM_ENVIRONMENT if name == "vllm" else VLLM_STAGES_ENVIRONMENT
    script = [options.vllm_python, str(HERE / "peer_vllm.py"), folder, stages, *workload]
    return Contender(name, script, environment)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All rounds of all contenders: raw runs by name."""
    folder = str(resolve_model("smollm2-135m-instruct").folder)
    contenders: list[Contender] = []
    runs: dict[str, Any] = {}
    try:
        for name in options.contenders.split(","):
            print(f"loading {name}", file=sys.stderr)
            contenders.append(command_of(name, options, folder))
            contenders[-1].wait_until_loaded()
        for number in range(options.rounds):
            for contender in contenders:
                if contender.name == "transformers" and number >= options.static_rounds:
                    continue
                figures = contender.run()
                entry = runs.setdefault(
                    contender.name, {"environment": contender.environment, "rounds": []}
                )
                entry["rounds"].append(figures)
                took = f"{figures['seconds']:.1f} s"
                print(f"round {number + 1}: {contender.name} {took}", file=sys.stderr)
    finally:
        for contender in contenders:
            contender.end()
    return runs


def table(runs: dict[str, Any], output_tokens: int) -> str:
    """Median throughput of each contender, and its ratio to each peer's median in these rounds.

    Where only ours take part, to that of the first.
    """
    medians = {
        name: statistics.median(round_["seconds"] for round_ in entry["rounds"])
        for name, entry in runs.items()
    }
    peers = [name for name in medians if not name.startswith("tdpipe")] or [*medians][:1]
    lines = [
        "| contender | output tokens/s | " + " | ".join(f"x {peer}" for peer in peers) + " |",
        "|---" * (2 + len(peers)) + "|",
    ]
    for name, seconds in medians.items():
        ratios = " | ".join(f"{medians[peer] / seconds:.2f}" for peer in peers)
        lines.append(f"| {name} | {output_tokens / seconds:.1f} | {ratios} |")
    return "\n".join(lines)


def main() -> None:
    """Parse options, measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--static-rounds", type=int, default=1, help="rounds of transformers, several times slower"
    )
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="of all lengths")
    parser.add_argument("--static-batches", default="64", help="sizes to try for transformers")
    parser.add_argument("--vllm-python", default=os.environ.get("TDPIPE_VLLM_PYTHON"))
    parser.add_argument("--contenders", default="vllm,transformers," + ",".join(TDPIPE))
    parser.add_argument("--name", default="peers")
    parser.add_argument(
        "--smoke", action="store_true", help="4 short requests, one round, one of ours, no vLLM"
    )
    parser.add_argument("--folder", type=Path, help="where to write, instead of results/")
    options = parser.parse_args()
    if options.smoke:
        options.requests, options.rounds, options.static_batches = 4, 1, "4"
        options.scale = 0.05
        options.contenders = f"transformers,{TDPIPE[0]},{REPLICAS}"
    if "vllm" in options.contenders and not options.vllm_python:
        parser.error("--vllm-python: give the interpreter that vLLM is installed for")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # contenders are ended then as well
    runs = measure(options)
    workload = make_workload(options.requests, options.seed, options.scale)
    output_tokens = sum(item.output_tokens for item in workload)
    settings = {
        name: getattr(options, name) for name in ("requests", "rounds", "stages", "seed", "scale")
    } | {
        "prompt_tokens": sum(len(item.prompt) for item in workload),
        "output_tokens": output_tokens,
        "model": "smollm2-135m-instruct",
        "dtype": "float32",
    }
    text = table(runs, output_tokens)
    path = write_result(options.name, settings, {"runs": runs, "table": text}, options.folder)
    print(text)
    print(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


if __name__ == "__main__":
    main()
