"""What int8 weights and a float16 KV cache cost: perplexity on a text, agreement of greedy answers.

    python benchmarks/quantization.py [--requests 78] [--max-tokens 64]

The text is the project's own documentation, cut into pieces of 512 tokens, each read from its
beginning. Agreement is over the demo's chats, greedy, of each kind with float32: answers that are
the same to the end, and tokens before the first that differs.
Writes benchmarks/results/quantization.json.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch

from result_record import ROOT, write_result
from tdpipe import LLM, SamplingParams
from tdpipe.core.batch_plan import BatchPlan, Phase, SequenceSlice
from tdpipe.execution.attention.choose_attention import choose_attention
from tdpipe.execution.batch_tensors import build_batch
from tdpipe.execution.models.decoder import StageModel
from tdpipe.execution.models.model_source import ModelSource, load_config, resolve_model
from tdpipe.execution.sequence_table import SequenceTable
from tdpipe.text.tokenizer import Tokenizer

MODEL = "smollm2-135m-instruct"
PIECE, BLOCK_SIZE = 512, 32
# Engine settings by name; the peers' names have the same endings.
KINDS: dict[str, dict[str, str]] = {
    "float32": {},
    "int8": {"quantization": "int8"},
    "float32-kv16": {"kv_cache_dtype": "float16"},
    "int8-kv16": {"quantization": "int8", "kv_cache_dtype": "float16"},
}
SMOKE_KINDS = ("float32", "int8-kv16")
DEMO = ROOT / "examples" / "prompts.jsonl"


def perplexity(source: ModelSource, pieces: list[list[int]], kind: dict[str, str]) -> float:
    """e to the mean negative log probability of each token after the first of its piece."""
    config, device = load_config(source.folder), torch.device("cpu")
    model = StageModel(
        config, 0, config.num_layers, is_first=True, is_last=True, dtype=torch.float32,
        device=device, max_model_len=PIECE, quantization=kind.get("quantization"),
    )  # fmt: skip
    model.load(source.folder)
    attention, num_blocks = choose_attention(torch.float32, device), PIECE // BLOCK_SIZE
    cache = attention.cache_class(
        config.num_layers, num_blocks, BLOCK_SIZE, config.num_kv_heads, config.head_dim,
        torch.float32, device, getattr(torch, kind.get("kv_cache_dtype", "float32")),
    )  # fmt: skip
    total, count = 0.0, 0
    for piece in pieces:
        table = SequenceTable(num_blocks)
        blocks = tuple(range(-(-len(piece) // BLOCK_SIZE)))
        slices = (SequenceSlice(0, 0, tuple(piece), blocks, True),)
        plan = BatchPlan(0, Phase.PREFILL, 1, slices, (), (), "")
        table.apply(plan)
        batch = build_batch(plan, table, BLOCK_SIZE, device)
        hidden = model(batch.token_ids, batch.positions, cache, attention, batch.attention)
        logits = model.project(hidden[:-1]).log_softmax(dim=-1)
        total -= float(logits.gather(1, torch.tensor(piece[1:])[:, None]).sum())
        count += len(piece) - 1
    return math.exp(total / count)


def answers(kind: dict[str, str], requests: int, max_tokens: int) -> list[list[int]]:
    """Greedy tokens for the demo's chats."""
    lines = DEMO.read_text().splitlines()[:requests]
    bodies = [json.loads(line)["body"] for line in lines]
    chats = [body["messages"] for body in bodies if "messages" in body]
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens)
    with LLM(MODEL, pipeline_parallel_size=2, **kind) as llm:
        return [list(output.outputs[0].token_ids) for output in llm.chat(chats, params)]


def agreement(exact: list[list[int]], rounded: list[list[int]]) -> dict[str, Any]:
    """Shares of answers that are the same, and of tokens before the first that differs."""
    same_tokens = [
        next((at for at, pair in enumerate(zip(x, y, strict=False)) if pair[0] != pair[1]), len(x))
        for x, y in zip(exact, rounded, strict=True)
    ]
    return {
        "answers": len(exact),
        "same_answers": sum(x == y for x, y in zip(exact, rounded, strict=True)) / len(exact),
        "same_tokens_before_a_difference": sum(same_tokens) / sum(map(len, exact)),
    }


def main() -> None:
    """Measure all, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=78)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--smoke", action="store_true", help="a short text, two answers")
    parser.add_argument("--folder", type=Path, help="where to write, instead of results/")
    options = parser.parse_args()
    if options.smoke:
        options.requests, options.max_tokens = 2, 4
    source = resolve_model(MODEL)
    paths = sorted((ROOT / "docs").glob("*.md"))
    text = "\n".join(path.read_text() for path in paths)
    tokens = Tokenizer(source.folder).encode(text)
    pieces = [tokens[at : at + PIECE] for at in range(0, len(tokens) - 1, PIECE)]
    pieces = [pieces[0][: PIECE // 4]] if options.smoke else pieces
    kinds = {name: KINDS[name] for name in SMOKE_KINDS} if options.smoke else KINDS
    with torch.inference_mode():
        figures: dict[str, Any] = {
            "text_tokens": sum(map(len, pieces)),
            "perplexity": {name: perplexity(source, pieces, kind) for name, kind in kinds.items()},
        }
    made = {
        name: answers(kind, options.requests, options.max_tokens) for name, kind in kinds.items()
    }
    exact = made.pop("float32")
    figures["agreement"] = {name: agreement(exact, rounded) for name, rounded in made.items()}
    settings = {
        "requests": options.requests, "max_tokens": options.max_tokens, "piece": PIECE,
        "smoke": options.smoke,
    }  # fmt: skip
    write_result("quantization", settings, figures, options.folder)
    for name, found in figures["perplexity"].items():
        print(f"{name}: perplexity {found:.3f}, agreement {figures['agreement'].get(name, 'own')}")


if __name__ == "__main__":
    main()
