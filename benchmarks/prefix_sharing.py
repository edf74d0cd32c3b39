"""Requests with a common header, end to end, with prefix caching on and off in turn.

    python benchmarks/prefix_sharing.py [--requests 500] [--header-tokens 800] [--output-tokens 32]

The header is text of the documentation, the requests are those of examples/prompts.jsonl, numbered.
The stages are started once; times are those of `generate`. Writes results/prefix_sharing.json.

With sharing, a scheduler fills a scarce cache with more requests, so that peaks differ little. Give
`--name prefix_sharing_roomy --requests 100 --kv-cache-memory 6GiB` to compare peaks where every
request fits the cache at once either way.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from result_record import ROOT, write_result
from tdpipe import LLM, SamplingParams

MODEL = "smollm2-135m-instruct"


def prompts(llm: LLM, count: int, header_tokens: int) -> list[list[int]]:
    """Token ids: the header, then a request of its own."""
    text = (ROOT / "docs" / "scheduling.md").read_text()
    header = llm.tokenizer.encode(text)[:header_tokens]
    lines = (ROOT / "examples" / "prompts.jsonl").read_text().splitlines()
    bodies = [json.loads(line)["body"] for line in lines]
    asked = [body["messages"][-1]["content"] for body in bodies if "messages" in body]
    return [
        [*header, *llm.tokenizer.encode(f"\n\nRequest {index}: {asked[index % len(asked)]}\n")]
        for index in range(count)
    ]


def measure(llm: LLM, given: list[list[int]], output_tokens: int) -> dict[str, Any]:
    """One run: its figures, and the tokens of each request."""
    params = SamplingParams(temperature=0.0, max_tokens=output_tokens, ignore_eos=True)
    started_s = time.perf_counter()
    outputs = llm.generate(given, params)
    seconds = time.perf_counter() - started_s
    summary = llm.summary()
    return {
        "seconds": seconds,
        "prompt_tokens": summary.prompt_tokens,
        "output_tokens": summary.output_tokens,
        "cached_share": summary.cached_share,
        "peak_kv_share": summary.peak_kv_share,
        "num_batches": summary.num_batches,
        "num_preemptions": summary.num_preemptions,
        "recomputed_tokens": summary.recomputed_tokens,
        "tokens": [output.outputs[0].token_ids for output in outputs],
    }


def same_share(one: list[list[int]], other: list[list[int]]) -> float:
    """Share of requests with the same tokens."""
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one)


def main() -> None:
    """Both settings in turn, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--header-tokens", type=int, default=800)
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--kv-cache-memory", default="2GiB")
    parser.add_argument("--scheduler", default="adaptive")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="few requests, few tokens")
    parser.add_argument("--name", default="prefix_sharing", help="of the file of results")
    parser.add_argument("--folder", type=Path, help="where to write, instead of results/")
    options = parser.parse_args()
    if options.smoke:
        options.requests, options.output_tokens = 6, 2
        options.header_tokens, options.kv_cache_memory = 160, "32MiB"
    runs: dict[str, list[dict[str, Any]]] = {"on": [], "off": []}
    with LLM(
        MODEL,
        pipeline_parallel_size=options.stages,
        kv_cache_memory=options.kv_cache_memory,
        scheduler=options.scheduler,
    ) as llm:
        llm.wait_until_ready()
        given = prompts(llm, options.requests, options.header_tokens)
        llm.generate(given[:2], SamplingParams(temperature=0.0, max_tokens=2))  # warm
        for _ in range(options.rounds):
            for name, entries in runs.items():
                llm.config = replace(llm.config, enable_prefix_caching=name == "on")
                entries.append(measure(llm, given, options.output_tokens))
                print(f"prefix caching {name}: {entries[-1]['seconds']:.1f} s", flush=True)
    tokens = {name: [entry.pop("tokens") for entry in entries] for name, entries in runs.items()}
    seconds = {
        name: statistics.median(entry["seconds"] for entry in entries)
        for name, entries in runs.items()
    }
    figures = {
        "speedup": seconds["off"] / seconds["on"],
        "peak_kv_ratio": runs["on"][0]["peak_kv_share"] / runs["off"][0]["peak_kv_share"],
        "same_outputs": same_share(tokens["on"][0], tokens["off"][0]),
        "runs": runs,
    }
    settings = {
        "requests": options.requests, "header_tokens": options.header_tokens,
        "output_tokens": options.output_tokens, "stages": options.stages,
        "kv_cache_memory": options.kv_cache_memory, "scheduler": options.scheduler,
        "rounds": options.rounds, "smoke": options.smoke,
    }  # fmt: skip
    write_result(options.name, settings, figures, options.folder)
    print(f"{figures['speedup']:.2f} times as fast; {figures['same_outputs']:.0%} same outputs")


if __name__ == "__main__":
    main()
