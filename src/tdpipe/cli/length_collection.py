"""`tdpipe lengths collect` and `predict`: requests of a batch file, their lengths or forecasts."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

from tdpipe.batch.batch_file import BadLine, BatchLine
from tdpipe.batch.batch_input import BatchInput
from tdpipe.batch.batch_paths import open_input, open_output
from tdpipe.cli.engine_options import engine_settings
from tdpipe.core.errors import ConfigError, RequestRejected, TdpipeError
from tdpipe.lengths.length_table import LengthRecord, LengthTable, header_line, record_line
from tdpipe.outputs import Job, RequestOutput
from tdpipe.prediction.length_predictor import Prompt
from tdpipe.text.tokenizer import Tokenizer

# Outputs that ended by themselves or at their limit; an aborted one tells nothing.
ENDED = ("stop", "length")


def collect(arguments: argparse.Namespace) -> int:
    """Write a table of lengths; returns the exit status, 1 if requests were left out."""
    from tdpipe.execution.models.model_source import resolve_model
    from tdpipe.lengths.model_identity import model_digest

    with open_input(arguments.input) as file:
        lines, left_out = _usable(BatchInput(file).lines())
    if not lines:
        raise ConfigError("input", arguments.input, "no request in it can be used")
    source = resolve_model(arguments.model)
    temperatures = {line.body.params.temperature for line in lines}
    temperature = temperatures.pop() if len(temperatures) == 1 else None
    table = LengthTable(source.name, model_digest(source.folder), temperature, ())
    if arguments.results:
        limit = arguments.max_model_len or source.config.max_position_embeddings
        tokenizer = Tokenizer(source.folder)
        records = _joined(lines, Path(arguments.results), tokenizer, limit)
    else:
        records = _run(lines, arguments)
    count = 0
    with open_output(arguments.output, arguments.input) as output:
        output.write(header_line(table))
        for record in records:
            output.write(record_line(record))
            output.flush()
            count += 1
    left_out += len(lines) - count
    print(f"{count} lengths in {arguments.output}", file=sys.stderr)
    if left_out:
        print(f"{left_out} requests left out: no length is known of them", file=sys.stderr)
    return 1 if left_out else 0


def predict(arguments: argparse.Namespace) -> int:
    """Print a forecast for each request; returns the exit status, 1 if lines were bad."""
    from tdpipe.execution.models.model_source import resolve_model
    from tdpipe.lengths.model_identity import model_digest
    from tdpipe.lengths.predictor_file import load_predictor

    path = Path(arguments.predictor)
    # The tokenizer is found by the file's own note; an encoder's file needs one to be read.
    note = load_predictor(path, decode=lambda token_ids: "").note
    source = resolve_model(arguments.model or note.model.name)
    tokenizer = Tokenizer(source.folder)
    predictor = load_predictor(path, model_digest(source.folder), tokenizer.decode)
    limit = source.config.max_position_embeddings
    num_bad = 0
    with open_input(arguments.input) as file:
        for line in BatchInput(file).lines():
            try:
                prompt = _prompt(line, tokenizer, limit)
            except TdpipeError as error:
                print(f"left out: {error}", file=sys.stderr)
                num_bad += 1
                continue
            (forecast,) = predictor.predict([prompt])
            print(json.dumps({"custom_id": line.custom_id, **asdict(forecast)}))
    return 1 if num_bad else 0


def _prompt(line: BatchLine | BadLine, tokenizer: Tokenizer, limit: int) -> Prompt:
    """What a predictor is asked. Raises TdpipeError: a bad line, or one of several prompts."""
    if isinstance(line, BadLine):
        raise line.error
    token_ids, params = _token_ids(line, tokenizer), line.body.params
    max_tokens = params.max_tokens or max(1, limit - len(token_ids))
    return Prompt(line.number, token_ids, max_tokens, not params.ignore_eos)


def _usable(lines: Iterable[BatchLine | BadLine]) -> tuple[list[BatchLine], int]:
    """Lines with one prompt whose output ends by itself, and how many others there are."""
    kept, left_out = [], 0
    for line in lines:
        if isinstance(line, BatchLine) and _is_single(line) and not line.body.params.ignore_eos:
            kept.append(line)
        else:
            left_out += 1
    return kept, left_out


def _is_single(line: BatchLine) -> bool:
    return line.body.messages is not None or len(line.body.prompts) == 1


def _token_ids(line: BatchLine, tokenizer: Tokenizer) -> tuple[int, ...]:
    if line.body.messages is not None:
        return tuple(tokenizer.encode_chat(line.body.messages))
    if not _is_single(line):
        fix = f"line {line.number}: give one prompt a line"
        raise RequestRejected("prompt", f"{len(line.body.prompts)} prompts", fix)
    (prompt,) = line.body.prompts
    return tuple(tokenizer.encode(prompt) if isinstance(prompt, str) else prompt)


def _joined(
    lines: Iterable[BatchLine], results: Path, tokenizer: Tokenizer, limit: int
) -> Iterator[LengthRecord]:
    """Records of the lines that the results of an earlier run answer."""
    answers = _answers(results)
    for line in lines:
        answer = answers.get(line.custom_id)
        if answer is None:
            continue
        token_ids = _token_ids(line, tokenizer)
        max_tokens = line.body.params.max_tokens or limit - len(token_ids)
        output_tokens, finish_reason = answer
        if 1 <= output_tokens <= max_tokens and finish_reason in ENDED:
            yield LengthRecord(line.custom_id, token_ids, output_tokens, finish_reason, max_tokens)


def _answers(results: Path) -> dict[str, tuple[int, str]]:
    """custom_id -> (output tokens, finish reason) of answers with one choice."""
    answers = {}
    try:
        with results.open("rb") as file:
            for raw in file:
                try:
                    answer = json.loads(raw)
                    body = answer["response"]["body"]
                    (choice,) = body["choices"]
                    tokens = int(body["usage"]["completion_tokens"])
                    answers[str(answer["custom_id"])] = tokens, str(choice["finish_reason"])
                except (ValueError, TypeError, KeyError, RecursionError):
                    continue  # an error line, several choices, or a line that is not finished
    except OSError as error:
        raise ConfigError("results", str(results), f"cannot be read ({error.strerror})") from None
    if not answers:
        raise ConfigError("results", str(results), "it has no answers; give a run-batch's output")
    return answers


def _run(lines: list[BatchLine], arguments: argparse.Namespace) -> Iterator[LengthRecord]:
    """Records of the lines, in the order in which their outputs end."""
    from tdpipe.cli.progress_view import ProgressView
    from tdpipe.llm import LLM

    jobs = [_job(index, line) for index, line in enumerate(lines)]
    with ProgressView() as view, LLM(arguments.model, **engine_settings(arguments)) as llm:
        limit = llm.wait_until_ready().max_model_len
        for result in llm.submit_iter(jobs, view.show):
            if result.output is not None:
                assert isinstance(result.key, int)
                record = _record(lines[result.key], result.output, limit)
                if record.finish_reason in ENDED:
                    yield record


def _job(index: int, line: BatchLine) -> Job:
    prompt = None if line.body.messages is not None else line.body.prompts[0]
    return Job(index, prompt, line.body.messages, replace(line.body.params, n=1))


def _record(line: BatchLine, output: RequestOutput, limit: int) -> LengthRecord:
    token_ids, (one,) = tuple(output.prompt_token_ids), output.outputs
    max_tokens = line.body.params.max_tokens or limit - len(token_ids)
    return LengthRecord(
        line.custom_id, token_ids, len(one.token_ids), one.finish_reason, max_tokens
    )
