"""One batch run with one fault on purpose, and what must be true of it afterwards.

A run is `tdpipe run-batch` as a process of its own, with a temporary folder of its own. A fault
hits a stage or the engine at a moment; whenever the command does not end well it is given again, as
a user would. In the end every line must have its answer, each once and equal to that of the run
without fault, and no process, socket or temporary file may be left.
"""

import json
import os
import random
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from byte_model import END
from tdpipe.execution.fault_injection import FAULT

ACTIONS = ("kill", "freeze", "engine", "engine-frozen", "raise", "memory", "hang", "poison")
SCHEDULERS = ("adaptive", "td-pipe", "pp-separate", "pp-hybrid", "token-throttling")
NUM_LINES = 24
# The one line whose prompt holds the end of text, which ends the others and so is never computed.
POISON = "line-7"
DETECTION_LIMIT_S = 5.0
RUN_LIMIT_S = 300.0
MOST_COMMANDS = 5


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault and its moment: with the line `after_lines` of the output, or `after_s` of the start.

    kill, freeze: a stage by SIGKILL, SIGSTOP. engine: the engine by SIGKILL; engine-frozen: the
    same while a stage is stopped. raise, memory, hang: in a stage at batch `batch`. poison: a
    request at which a stage raises or kills itself (`how`), every time. Of the `ranks` that share
    the stage it is `rank` that is hit.
    """

    action: str
    num_stages: int
    scheduler: str
    stage: int
    after_lines: int | None = None
    after_s: float = 0.0
    batch: int | None = None
    how: str = ""
    ranks: int = 1
    rank: int = 0


def random_fault(seed: int, actions: tuple[str, ...] = ACTIONS) -> Fault:
    """The fault of a seed, of one of the actions."""
    draw = random.Random(seed)
    num_stages = draw.choice((2, 2, 3))
    action = draw.choice(actions)
    from_start = draw.random() < 0.2
    ranks = draw.choice((1, 2)) if num_stages == 2 else 1
    return Fault(
        action=action,
        num_stages=num_stages,
        scheduler=draw.choice(SCHEDULERS),
        stage=draw.randrange(num_stages),
        after_lines=None if from_start else draw.randrange(NUM_LINES),
        after_s=draw.uniform(0.0, 10.0) if from_start else draw.uniform(0.0, 0.1),
        batch=draw.randrange(40) if action in ("raise", "memory", "hang") else None,
        how=draw.choice(("raise", "kill")) if action == "poison" else "",
        ranks=ranks,
        rank=draw.randrange(ranks),
    )


def write_input(path: Path) -> None:
    """The lines: greedy and seeded ones, of many lengths."""
    draw = random.Random(1)
    with path.open("w") as file:
        for number in range(NUM_LINES):
            prompt = [draw.randrange(END) for _ in range(draw.randrange(4, 40))]
            name = f"line-{number}"
            if name == POISON:
                prompt[2] = END
            body: dict[str, Any] = {"prompt": prompt, "max_tokens": draw.randrange(5, 100)}
            body["temperature"] = 0.0
            if number % 2:
                body |= {"temperature": 1.0, "seed": number, "repetition_penalty": 1.1}
            url = "/v1/completions"
            line = {"custom_id": name, "method": "POST", "url": url, "body": body}
            file.write(json.dumps(line) + "\n")


class FaultBench:
    """Runs with faults against the answers of a run without, in a folder of its own.

    Ranks add up in another order than one process does, and a draw may fall to the other side: a
    run is held against one with as many of them.
    """

    def __init__(self, model: Path, folder: Path) -> None:
        self._model = model
        self._folder = folder
        self._input = folder / "in.jsonl"
        write_input(self._input)
        self._references: dict[int, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def run(self, fault: Fault, name: str) -> dict[str, Any]:
        """What happened; `problems` is empty when all is as it must be."""
        reference = self._reference(fault.ranks)
        place = self._place(name)
        started_s = time.monotonic()
        commands = [self._struck(fault, place)]
        problems = leftovers(place, commands[0])
        while commands[-1].status not in (0, 1) and len(commands) < MOST_COMMANDS:
            again = _Command(self._command(fault, place), place, "")
            again.wait()
            commands.append(again)
            problems += leftovers(place, again)
        problems += wrong_answers(place / "out.jsonl", reference, fault)
        if commands[-1].status != (1 if fault.action == "poison" else 0):
            problems.append(f"exit statuses {[one.status for one in commands]}")
        detection_s = commands[0].detection_s()
        if detection_s is not None and detection_s > DETECTION_LIMIT_S:
            problems.append(f"detected after {detection_s:.1f} s")
        return {
            **asdict(fault),
            "statuses": [one.status for one in commands],
            "detection_s": None if detection_s is None else round(detection_s, 3),
            "restarts": sum(one.num_restarts for one in commands),
            "seconds": round(time.monotonic() - started_s, 1),
            "problems": problems,
            **({"errors": commands[0].errors} if problems else {}),
        }

    # ---- details

    def _place(self, name: str) -> Path:
        place = self._folder / name
        (place / "tmp").mkdir(parents=True)
        return place

    def _reference(self, ranks: int) -> dict[str, Any]:
        """The answers of a run without fault, with so many ranks a stage."""
        with self._lock:
            if ranks not in self._references:
                fault = Fault("none", 2, "adaptive", 0, ranks=ranks)
                place = self._place(f"reference-{ranks}")
                command = _Command(self._command(fault, place), place, "")
                assert command.wait() == 0, command.errors
                self._references[ranks] = answers(place / "out.jsonl")
                assert len(self._references[ranks]) == NUM_LINES
            return self._references[ranks]

    def _command(self, fault: Fault, place: Path) -> list[str]:
        return [
            *(sys.executable, "-m", "tdpipe.cli.main", "run-batch", "--device", "cpu"),
            *("-i", str(self._input), "-o", str(place / "out.jsonl"), "--model", str(self._model)),
            *("-p", str(fault.num_stages), "-t", str(fault.ranks)),
            *("--scheduler", fault.scheduler, "--kv-cache-memory", f"{160 // fault.ranks}KiB"),
            *("--block-size", "8", "--max-model-len", "160", "--max-num-batched-tokens", "64"),
        ]

    def _struck(self, fault: Fault, place: Path) -> "_Command":
        """The command, hit by the fault, at its end."""
        injected = ""
        if fault.batch is not None:
            injected = f"{fault.action} {place_of(fault)} batch={fault.batch}"
        elif fault.action == "poison":
            injected = f"{fault.how} {place_of(fault)} token={END}"
        command = self._command(fault, place)
        running = _Command(command, place, injected)
        if not injected:
            running.wait_for(fault)
            running.strike(fault)
        running.wait()
        return running


class _Command:
    """A run-batch process whose standard error is read, with times, as it comes."""

    def __init__(self, command: list[str], place: Path, fault: str) -> None:
        self.status: int | None = None
        self._lines: list[tuple[float, str]] = []
        self._struck_s: float | None = None
        self._output = place / "out.jsonl"
        environment = {**os.environ, "TMPDIR": str(place / "tmp"), FAULT: fault}
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started_s = time.monotonic()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def errors(self) -> str:
        return "\n".join(line for _, line in self._lines)[-3000:]

    @property
    def num_restarts(self) -> int:
        return sum("starting the stages again" in line for _, line in self._lines)

    def wait(self) -> int:
        """Its exit status; a run that hangs ends with -9 and is told by it."""
        try:
            self.status = self._process.wait(RUN_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.status = self._process.wait()
            self._lines.append((time.monotonic(), "the run hung"))
        self._reader.join(10.0)
        return self.status

    def wait_for(self, fault: Fault) -> None:
        """Wait for the fault's moment, or the end of the run."""
        while self._process.poll() is None and fault.after_lines is not None:
            text = self._output.read_bytes() if self._output.exists() else b""
            if (
                text.count(b"\n") >= fault.after_lines
                and len(self.stages()) == fault.num_stages * fault.ranks
            ):
                break
            time.sleep(0.005)
        time.sleep(fault.after_s)

    def strike(self, fault: Fault) -> None:
        """Do to the engine or a stage what the fault says, if it is still there."""
        stages = self.stages()
        number = fault.stage * fault.ranks + fault.rank
        victim = stages[number] if number < len(stages) else None
        self._struck_s = time.monotonic()
        try:
            if fault.action in ("freeze", "engine-frozen") and victim is not None:
                victim.suspend()
            if fault.action == "kill" and victim is not None:
                victim.kill()
            if fault.action.startswith("engine"):
                self._process.kill()
        except psutil.NoSuchProcess:
            pass

    def stages(self) -> list[psutil.Process]:
        """The stages' processes, in order of their start."""
        try:
            children = psutil.Process(self._process.pid).children()
        except psutil.NoSuchProcess:
            return []
        return sorted(filter(is_stage, children), key=lambda one: (one.create_time(), one.pid))

    def detection_s(self) -> float | None:
        """From the fault to the engine's word of it; None where there was none of either."""
        told = [at for at, line in self._lines if line.startswith(FAULT)]
        struck_s = told[0] if told else self._struck_s
        words = [at for at, line in self._lines if "stage" in line and " failed" in line]
        return words[0] - struck_s if struck_s is not None and words else None

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.append((time.monotonic(), line.rstrip()))


def place_of(fault: Fault) -> str:
    """The process that is hit, as fault injection names it."""
    return f"stage={fault.stage} rank={fault.rank}"


def wrong_answers(path: Path, reference: dict[str, Any], fault: Fault) -> list[str]:
    """What is missing or differs."""
    found = answers(path)
    problems = [] if len(found) == NUM_LINES else [f"{len(found)} lines are answered"]
    for name, answer in reference.items():
        if fault.action == "poison" and name == POISON:
            if "given up" not in json.dumps(found.get(name)):
                problems.append(f"{name} was not given up: {found.get(name)}")
        elif found.get(name) != answer:
            problems.append(f"{name} differs: {found.get(name)}")
    return problems


def is_stage(process: psutil.Process) -> bool:
    """Whether a process is a stage."""
    try:
        return any("stage_worker" in part for part in process.cmdline())
    except psutil.Error:
        return False


def leftovers(place: Path, command: _Command) -> list[str]:
    """Processes and temporary files of a run that has ended, after a moment's grace."""
    deadline_s = time.monotonic() + 10.0
    while left := [*_stages_of(place), *(str(one) for one in (place / "tmp").iterdir())]:
        if time.monotonic() > deadline_s:
            return [f"left after status {command.status}: {left}"]
        time.sleep(0.1)
    return []


def _stages_of(place: Path) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if is_stage(process) and process.environ().get("TMPDIR") == str(place / "tmp"):
                found.append(f"process {process.pid} ({process.status()})")
        except psutil.Error:
            continue
    return found


def answers(path: Path) -> dict[str, Any]:
    """custom_id -> text and usage, or the error; each id once.

    Raises:
        AssertionError: an id has two results.
    """
    found: dict[str, Any] = {}
    for line in path.read_bytes().splitlines():
        record = json.loads(line)
        name = record["custom_id"]
        assert name not in found, f"{name} has two results"
        body = (record["response"] or {}).get("body", {})
        found[name] = record["error"] or [body["choices"], body["usage"]]
    return found
