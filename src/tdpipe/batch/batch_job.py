"""Runs a batch file: lines in, jobs through the engine, result lines out as they finish."""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tdpipe.batch.batch_file import BadLine, BatchLine
from tdpipe.batch.batch_input import BatchInput
from tdpipe.batch.journal import Journal
from tdpipe.batch.openai_request import CHAT
from tdpipe.batch.openai_response import chat_body, completion_body, error_object
from tdpipe.core.errors import TdpipeError, TooManyErrors
from tdpipe.core.sampling_params import SamplingParams
from tdpipe.outputs import Job, JobResult, Progress, RequestOutput

# Prompts of one line at most, of those that are drawn for without a seed of their own.
PLACES_PER_LINE = 1 << 20


class Engine(Protocol):
    """The part of LLM that a batch needs."""

    def submit_iter(
        self, jobs: Iterable[Job], on_progress: Callable[[Progress], None] | None = None
    ) -> Iterator[JobResult]:
        """Run jobs; yields each one's output or error as it ends."""
        ...


@dataclass(slots=True)
class BatchOutcome:
    """How many lines of the input succeeded and failed, those of earlier runs included.

    Attributes:
        num_earlier: lines that an earlier run had finished.
        num_lines: lines of the input that are not blank.
    """

    num_succeeded: int
    num_failed: int
    num_earlier: int
    num_lines: int

    @property
    def num_left(self) -> int:
        """Lines without a result, for the next run."""
        return self.num_lines - self.num_succeeded - self.num_failed


@dataclass(slots=True)
class _OpenLine:
    """A line on its way, without its text; a completions line may have several prompts."""

    custom_id: str | None
    url: str = ""
    model: str | None = None
    num_jobs: int = 1
    outputs: dict[int, RequestOutput] = field(default_factory=dict)
    error: TdpipeError | None = None


class BatchJob:
    """One run of a batch file.

    Args:
        model: name to report where a line names none.
        warn: called once for each unknown body field, with a message.
        on_answer: called with (custom_id, text of the first choice) of each success.
        length_hints: expected output tokens by custom_id, where known.
        max_errors: lines that may fail; None for any number.
    """

    def __init__(
        self,
        model: str,
        warn: Callable[[str], None],
        on_answer: Callable[[str, str], None] | None = None,
        length_hints: Mapping[str, int] | None = None,
        max_errors: int | None = None,
    ) -> None:
        self._model = model
        self._warn = warn
        self._on_answer = on_answer
        self._length_hints = length_hints or {}
        self._max_errors = max_errors
        self._warned: set[str] = set()
        self._open: dict[int, _OpenLine] = {}

    def run(
        self,
        engine: Engine,
        batch: BatchInput,
        journal: Journal,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> BatchOutcome:
        """Run all lines that are not finished; each result is in the journal when it is known.

        Lines of a run that the engine ended early are left for the next one.

        Raises:
            TooManyErrors: more than max_errors lines have failed.
        """
        done = journal.finished
        self.outcome = BatchOutcome(
            done.num_succeeded, done.num_failed, len(done), batch.index.num_lines
        )
        jobs = self._jobs(batch.lines(is_done=done.has))
        for result in engine.submit_iter(jobs, on_progress):
            self._take(result, journal)
        return self.outcome

    def _jobs(self, lines: Iterable[BatchLine | BadLine]) -> Iterator[Job]:
        """Jobs of the good lines; runs on the engine's intake thread."""
        for line in lines:
            if isinstance(line, BadLine):
                self._open[line.number] = _OpenLine(line.custom_id)
                yield Job((line.number, 0), None, None, SamplingParams(), error=line.error)
                continue
            self._name_unknown_fields(line)
            jobs = jobs_of(line, self._length_hints.get(line.custom_id))
            self._open[line.number] = _OpenLine(line.custom_id, line.url, line.model, len(jobs))
            yield from jobs

    def _name_unknown_fields(self, line: BatchLine) -> None:
        for name in line.body.unknown_fields:
            if name not in self._warned:
                self._warned.add(name)
                self._warn(f"line {line.number}: unknown field {name!r} is ignored")

    def _take(self, result: JobResult, journal: Journal) -> None:
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
            self._write_error(number, open_line.custom_id, open_line.error, journal)
        else:
            self._write_success(open_line, journal)

    def _write_success(self, done: _OpenLine, journal: Journal) -> None:
        outputs = [done.outputs[index] for index in sorted(done.outputs)]
        model, created = done.model or self._model, int(time.time())
        if done.url == CHAT:
            body = chat_body(f"chatcmpl-{uuid.uuid4().hex}", model, created, outputs[0])
        else:
            body = completion_body(f"cmpl-{uuid.uuid4().hex}", model, created, outputs)
        response = {"status_code": 200, "request_id": uuid.uuid4().hex, "body": body}
        journal.append(_record(done.custom_id, response, None))
        self.outcome.num_succeeded += 1
        if self._on_answer is not None and done.custom_id is not None:
            self._on_answer(done.custom_id, outputs[0].outputs[0].text)

    def _write_error(
        self, number: int, custom_id: str | None, error: TdpipeError, journal: Journal
    ) -> None:
        journal.append(_record(custom_id, None, error_object(error, number)))
        self.outcome.num_failed += 1
        if self._max_errors is not None and self.outcome.num_failed > self._max_errors:
            raise TooManyErrors(self.outcome.num_failed, self._max_errors, str(error))


def jobs_of(line: BatchLine, length_hint: int | None = None) -> list[Job]:
    """A line's jobs, one for each of its prompts; keys are (line number, index of the prompt)."""
    body, place = line.body, line.number * PLACES_PER_LINE
    prompts: list[Any] = body.prompts if body.messages is None else [None]
    return [
        Job((line.number, index), prompt, body.messages, body.params, length_hint, place + index)
        for index, prompt in enumerate(prompts)
    ]


def _record(
    custom_id: str | None, response: dict[str, Any] | None, error: dict[str, Any] | None
) -> dict[str, Any]:
    """A result line in OpenAI's form."""
    return {
        "id": f"batch_req_{uuid.uuid4().hex}",
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }
