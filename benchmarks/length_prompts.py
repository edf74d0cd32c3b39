"""Real instructions for length prediction, as an OpenAI batch file; answers are made elsewhere.

    python benchmarks/length_prompts.py build/lengths/prompts.jsonl [--temperature 0.7]

Questions of eight public sets, each prompt once, shuffled with a seed. Which part of the data a
prompt belongs to (train, validation or test) depends on a hash of its text alone, and stands in
front of its custom_id: no prompt can be in two parts. The data lie beside the checkout; some of
them may not be redistributed, so what this writes stays out of the project.
"""

import argparse
import gzip
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from result_record import ROOT

DATA = ROOT.parent / "shared" / "data" / "prompts"
MODEL = "smollm2-135m-instruct"
# How many prompts of each set, at most.
TAKEN = {
    "alpaca": 900,
    "gsm8k": 400,
    "ifeval": 540,
    "arena": 500,
    "self-instruct": 252,
    "humaneval": 164,
    "mt-bench": 80,
    "vicuna": 80,
}
# Of 100 hash values, those of the training part come first, then those for validation.
TRAIN, VALIDATION = 44, 14
SEED = 0


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects in a JSON lines file, compressed or not."""
    packed = path.read_bytes()
    text = gzip.decompress(packed) if path.suffix == ".gz" else packed
    yield from map(json.loads, text.splitlines())


def prompts_of(name: str) -> list[str]:
    """The texts of one set, in the order of its file."""
    if name == "alpaca":
        rows = json.loads((DATA / "alpaca_5000/alpaca_5000.json").read_text())
        return [f"{row['instruction']}\n\n{row['input']}".strip() for row in rows]
    if name == "gsm8k":
        return [row["question"] for row in json_lines(DATA / "gsm8k/train.jsonl")]
    if name == "ifeval":
        return [row["prompt"] for row in json_lines(DATA / "ifeval/input_data.jsonl")]
    if name == "arena":
        rows = json_lines(DATA / "arena_hard/question.jsonl")
        return [row["turns"][0]["content"] for row in rows]
    if name == "self-instruct":
        rows = json_lines(DATA / "self_instruct/davinci_predictions.jsonl")
        return [row["prompt"] for row in rows]
    if name == "humaneval":
        path = DATA / "humaneval/HumanEval.jsonl.gz"
        return [f"Complete this function:\n\n{row['prompt']}" for row in json_lines(path)]
    file = "question" if name == "mt-bench" else "vicuna_question"
    return [row["turns"][0] for row in json_lines(DATA / f"mt_bench/{file}.jsonl")]


def part_of(prompt: str) -> str:
    """The part of the data that a text belongs to."""
    value = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big") % 100
    if value < TRAIN:
        return "train"
    return "validation" if value < TRAIN + VALIDATION else "test"


def chosen(scale: float) -> list[tuple[str, str]]:
    """(custom_id, prompt) of all, shuffled."""
    source = random.Random(SEED)
    seen: set[str] = set()
    found: list[tuple[str, str]] = []
    for name, most in TAKEN.items():
        texts = [text for text in dict.fromkeys(prompts_of(name)) if text and text not in seen]
        taken = source.sample(texts, min(round(most * scale), len(texts)))
        seen.update(taken)
        found += [(f"{part_of(text)}/{name}-{n}", text) for n, text in enumerate(taken)]
    source.shuffle(found)
    return found


def main() -> None:
    """Write the batch file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--scale", type=float, default=1.0, help="share of each set")
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    requests = chosen(options.scale)
    with options.output.open("w", encoding="utf-8") as file:
        for custom_id, prompt in requests:
            body = {
                "model": MODEL,
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": options.max_tokens,
                "temperature": options.temperature,
            }
            line = {
                "custom_id": custom_id,
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": body,
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    parts = [custom_id.split("/")[0] for custom_id, _ in requests]
    counts = {part: parts.count(part) for part in ("train", "validation", "test")}
    print(f"{len(requests)} prompts, {counts}: {options.output}")


if __name__ == "__main__":
    main()
