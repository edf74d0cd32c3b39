"""Runs a batch file: lines in, jobs through the engine, result lines out as they finish."""

import json
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Protocol

from tdpipe.batch.batch_file import BadLine, BatchLine, read_lines
from tdpipe.batch.openai_request import CHAT
from tdpipe.batch.openai_response import chat_body, completion_body, error_object
from tdpipe.core.errors import TdpipeError
from tdpipe.outputs import Job, JobResult, Progress, RequestOutput


class Engine(Protocol):
    """The part of LLM that a batch needs."""

    def submit_iter(
        self, jobs: Iterable[Job], on_progress: Callable[[Progress], None] | None = None
    ) -> Iterator[JobResult]:
        """Run jobs; yields each one's output or error as it ends."""
        ...


@dataclass(slots=True)
class BatchOutcome:
    """How many lines succeeded and failed."""

    num_succeeded: int = 0
    num_failed: int = 0


@dataclass(slots=True)
class _OpenLine:
    """A line on its way; a completions line may have several prompts."""

    line: BatchLine
    num_jobs: int
    outputs: dict[int, RequestOutput] = field(default_factory=dict)
    error: TdpipeError | None = None


class BatchJob:
    """One run of a batch file.

    Args:
        model: name to report where a line names none.
        warn: called once for each unknown body field, with a message.
        on_answer: called with (custom_id, text of the first choice) of each success.
        length_hints: expected output tokens by custom_id, where known.
    """

    def __init__(
        self,
        model: str,
        warn: Callable[[str], None],
        on_answer: Callable[[str, str], None] | None = None,
        length_hints: Mapping[str, int] | None = None,
    ) -> None:
        self.outcome = BatchOutcome()
        self._model = model
        self._warn = warn
        self._on_answer = on_answer
        self._length_hints = length_hints or {}
        self._warned: set[str] = set()
        self._bad: deque[BadLine] = deque()
        self._open: dict[int, _OpenLine] = {}

    def run(
        self,
        engine: Engine,
        raw_lines: Iterable[bytes],
        output: IO[str],
        on_progress: Callable[[Progress], None] | None = None,
    ) -> BatchOutcome:
        """Run all lines; each result is written and flushed when it is known."""
        for result in engine.submit_iter(self._jobs(raw_lines), on_progress):
            self._write_bad_lines(output)
            self._take(result, output)
        self._write_bad_lines(output)
        assert not self._open, sorted(self._open)
        return self.outcome

    def _jobs(self, raw_lines: Iterable[bytes]) -> Iterator[Job]:
        """Jobs of the good lines; runs on the engine's intake thread."""
        for line in read_lines(raw_lines):
            if isinstance(line, BadLine):
                self._bad.append(line)
                continue
            self._name_unknown_fields(line)
            body = line.body
            prompts: list[Any] = body.prompts if body.messages is None else [None]
            self._open[line.number] = _OpenLine(line, len(prompts))
            hint = self._length_hints.get(line.custom_id)
            for index, prompt in enumerate(prompts):
                yield Job((line.number, index), prompt, body.messages, body.params, hint)

    def _name_unknown_fields(self, line: BatchLine) -> None:
        for name in line.body.unknown_fields:
            if name not in self._warned:
                self._warned.add(name)
                self._warn(f"line {line.number}: unknown field {name!r} is ignored")

    def _take(self, result: JobResult, output: IO[str]) -> None:
        assert isinstance(result.key, tuple), result.key
        number, index = result.key
        open_line = self._open[number]
        if result.output is not None:
            open_line.outputs[index] = result.output
        else:
            open_line.error = open_line.error or result.error
            open_line.num_jobs -= 1
        if len(open_line.outputs) < open_line.num_jobs:
            return
        del self._open[number]
        if open_line.error is not None:
            self._write_error(open_line.line.custom_id, open_line.error, output)
        else:
            self._write_success(open_line, output)

    def _write_success(self, done: _OpenLine, output: IO[str]) -> None:
        line = done.line
        outputs = [done.outputs[index] for index in sorted(done.outputs)]
        model, created = line.model or self._model, int(time.time())
        if line.url == CHAT:
            body = chat_body(f"chatcmpl-{uuid.uuid4().hex}", model, created, outputs[0])
        else:
            body = completion_body(f"cmpl-{uuid.uuid4().hex}", model, created, outputs)
        response = {"status_code": 200, "request_id": uuid.uuid4().hex, "body": body}
        _write(output, line.custom_id, response, None)
        self.outcome.num_succeeded += 1
        if self._on_answer is not None:
            self._on_answer(line.custom_id, outputs[0].outputs[0].text)

    def _write_bad_lines(self, output: IO[str]) -> None:
        while self._bad:
            bad = self._bad.popleft()
            self._write_error(bad.custom_id, bad.error, output)

    def _write_error(self, custom_id: str | None, error: TdpipeError, output: IO[str]) -> None:
        _write(output, custom_id, None, error_object(error))
        self.outcome.num_failed += 1


def _write(
    output: IO[str],
    custom_id: str | None,
    response: dict[str, Any] | None,
    error: dict[str, Any] | None,
) -> None:
    record = {
        "id": f"batch_req_{uuid.uuid4().hex}",
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }
    output.write(json.dumps(record, ensure_ascii=False) + "\n")
    output.flush()
