"""The reference answers, made once: transformers' greedy continuations of 64 real prompts."""

import json
from pathlib import Path

import pytest
import torch

from reference_answers import (
    MODEL,
    NUM_PROMPTS,
    NUM_TOKENS,
    SAMPLE_STEP,
    SAMPLE_TOKENS,
    continuations,
)
from tdpipe.execution.models.model_source import resolve_model
from tdpipe.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def source():
    return resolve_model(MODEL)


@pytest.fixture(scope="session")
def prompts(source, request):
    """Token ids of 64 of the example prompts, from the shortest to 300 tokens, or a sample."""
    tokenizer = Tokenizer(source.folder)
    path = Path(__file__).parents[2] / "examples" / "prompts.jsonl"
    bodies = [json.loads(line)["body"] for line in path.read_text().splitlines()]
    chats = [body["messages"] for body in bodies if "messages" in body]
    step = 1 if request.config.getoption("all_prompts") else SAMPLE_STEP
    chosen = chats[:NUM_PROMPTS:step]
    assert len(chosen) == -(-NUM_PROMPTS // step)
    return [tokenizer.encode_chat(messages) for messages in chosen]


@pytest.fixture(scope="session")
def num_tokens(request):
    """Tokens of each reference answer."""
    return NUM_TOKENS if request.config.getoption("all_prompts") else SAMPLE_TOKENS


@pytest.fixture(scope="session")
def reference(source, prompts, num_tokens):
    """(tokens, gap between the two best logits) of each step of each prompt."""
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(2)
    model = AutoModelForCausalLM.from_pretrained(source.folder, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    answers = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for first in range(0, len(order), 16):
        group = order[first : first + 16]
        for index, answer in zip(
            group, continuations(model, [prompts[i] for i in group], num_tokens), strict=True
        ):
            answers[index] = answer
    return answers
