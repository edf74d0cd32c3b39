"""How long the served model's answers are, kept by custom_id without any text, and brought back.

    python benchmarks/length_prompts.py build/lengths/prompts.jsonl
    tdpipe run-batch -i build/lengths/prompts.jsonl -o build/lengths/results.jsonl --replicas 2
    python benchmarks/output_lengths.py keep build/lengths/results.jsonl \\
        --name output_lengths_greedy

Answers to all prompts take about an hour on two cores, their lengths alone a moment:

    python benchmarks/output_lengths.py restore build/lengths/results.jsonl \\
        --name output_lengths_greedy
    tdpipe lengths collect -i build/lengths/prompts.jsonl --results build/lengths/results.jsonl \\
        -o build/lengths/greedy.jsonl

What is restored is an OpenAI batch output with lengths but no text. Some of the prompts may not be
redistributed; numbers of tokens hold nothing of them.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from result_record import RESULTS, write_result

ENDED = ("stop", "length")


def lengths_of(results: Path) -> dict[str, list[Any]]:
    """custom_id -> [output tokens, finish reason] of the finished answers, in order of ids."""
    lengths = {}
    for line in results.read_text(encoding="utf-8").splitlines():
        answer = json.loads(line)
        if not answer["response"] or answer["response"]["status_code"] != 200:
            continue
        body = answer["response"]["body"]
        (choice,) = body["choices"]
        if choice["finish_reason"] in ENDED:
            tokens = body["usage"]["completion_tokens"]
            lengths[answer["custom_id"]] = [tokens, choice["finish_reason"]]
    return dict(sorted(lengths.items()))


def keep(results: Path, name: str, settings: dict[str, Any], folder: Path | None) -> None:
    """Write the lengths to a result file."""
    lengths = lengths_of(results)
    tokens = [count for count, _ in lengths.values()]
    figures = {
        "answers": len(lengths),
        "mean_tokens": sum(tokens) / len(tokens),
        "lengths": {custom_id: json.dumps(one) for custom_id, one in lengths.items()},
    }
    write_result(name, settings, figures, folder)
    print(f"{len(lengths)} lengths, mean {figures['mean_tokens']:.1f} tokens")


def restore(results: Path, name: str, folder: Path | None) -> None:
    """Write a batch output that has the kept lengths."""
    record = json.loads(((folder or RESULTS) / f"{name}.json").read_text())
    with results.open("w", encoding="utf-8") as file:
        for custom_id, kept in record["lengths"].items():
            tokens, reason = json.loads(kept)
            body = {
                "choices": [{"finish_reason": reason, "message": {"content": ""}}],
                "usage": {"completion_tokens": tokens},
            }
            answer = {"custom_id": custom_id, "response": {"status_code": 200, "body": body}}
            file.write(json.dumps(answer) + "\n")
    print(f"{len(record['lengths'])} lengths: {results}")


def main() -> None:
    """Keep or restore."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("keep", "restore"))
    parser.add_argument("results", type=Path, help="output of run-batch, to read or to write")
    parser.add_argument("--name", required=True, help="of the file in benchmarks/results")
    parser.add_argument("--temperature", type=float, default=0.0, help="that the answers were at")
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--folder", type=Path, help="instead of results/")
    options = parser.parse_args()
    if options.action == "keep":
        settings = {"temperature": options.temperature, "max_tokens": options.max_tokens}
        keep(options.results, options.name, settings, options.folder)
    else:
        restore(options.results, options.name, options.folder)


if __name__ == "__main__":
    main()
