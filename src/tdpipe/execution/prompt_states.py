"""A model's states of prompts, all layers in one process: what length heads learn from."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from tdpipe.core.batch_plan import BatchPlan, Phase, SequenceSlice
from tdpipe.core.block_pool import blocks_for
from tdpipe.core.errors import ConfigError
from tdpipe.execution.attention.choose_attention import choose_attention
from tdpipe.execution.batch_tensors import build_batch
from tdpipe.execution.models.decoder import StageModel
from tdpipe.execution.models.model_config import ModelConfig
from tdpipe.execution.models.model_source import load_config
from tdpipe.execution.models.state_probe import StateProbe
from tdpipe.execution.sequence_table import SequenceTable

BLOCK_SIZE = 16
# Prompt tokens in a batch; a longer prompt is a batch of its own.
BATCH_TOKENS = 2048


def prompt_states(
    folder: Path,
    prompts: Sequence[Sequence[int]],
    depths: Sequence[int],
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> npt.NDArray[np.float32]:
    """States [prompts, depths, hidden] at each prompt's last token, as a StateProbe takes them.

    Args:
        folder: the model, a Hugging Face folder.
        prompts: token ids, at least one each.
        depths: layers before each state, 1 to the model's number of layers.
        device: cpu or cuda, as torch names them.
        dtype: of the weights; float32 on CPU and bfloat16 elsewhere where it is None.
        on_progress: called with the number of prompts done, after each batch.

    Raises:
        ConfigError: the model cannot be loaded, or a prompt is empty, beyond its limit, or not of
            its vocabulary.
    """
    config = load_config(folder)
    _check(prompts, config)
    assert all(1 <= depth <= config.num_layers for depth in depths), depths
    longest = max((len(prompt) for prompt in prompts), default=0)
    place = torch.device(device)
    chosen = dtype or (torch.float32 if place.type == "cpu" else torch.bfloat16)
    states = np.empty((len(prompts), len(depths), config.hidden_size), np.float32)
    if not prompts:
        return states
    model = StageModel(
        config,
        0,
        config.num_layers,
        is_first=True,
        is_last=False,
        dtype=chosen,
        device=place,
        max_model_len=longest,
    )
    model.load(folder)
    done = 0
    with torch.inference_mode():
        for indices, found in _batches(model, prompts, depths, place):
            states[indices] = found
            done += len(indices)
            if on_progress is not None:
                on_progress(done)
    return states


def _check(prompts: Sequence[Sequence[int]], config: ModelConfig) -> None:
    for index, prompt in enumerate(prompts):
        if not 1 <= len(prompt) <= config.max_position_embeddings:
            fix = f"each must have 1 to {config.max_position_embeddings} tokens, the model's limit"
            raise ConfigError(f"prompts[{index}]", f"{len(prompt)} tokens", fix)
        if not 0 <= min(prompt) <= max(prompt) < config.vocab_size:
            fix = f"token ids must be from 0 to {config.vocab_size - 1}"
            raise ConfigError(f"prompts[{index}]", max(prompt), fix)


def _batches(
    model: StageModel,
    prompts: Sequence[Sequence[int]],
    depths: Sequence[int],
    device: torch.device,
) -> Iterator[tuple[list[int], npt.NDArray[np.float32]]]:
    """Indices of the prompts in each batch, and their states [indices, depths, hidden]."""
    config, dtype = model.config, model.dtype
    longest = blocks_for(max(map(len, prompts)), BLOCK_SIZE)
    # A sequence leaves at most a block unfilled, and has at least one token.
    num_blocks = max(longest, BATCH_TOKENS // BLOCK_SIZE)
    attention, table = choose_attention(dtype, device), SequenceTable(longest)
    cache = attention.cache_class(
        config.num_layers,
        num_blocks,
        BLOCK_SIZE,
        config.num_kv_heads,
        config.head_dim,
        dtype,
        device,
    )
    for indices in _groups(prompts, num_blocks):
        table.clear()
        plan = _plan(indices, prompts)
        table.apply(plan)
        batch = build_batch(plan, table, BLOCK_SIZE, device)
        probes = [StateProbe(depth, batch.sampled_rows) for depth in depths]
        model(batch.token_ids, batch.positions, cache, attention, batch.attention, probes)
        yield indices, torch.stack([probe.states for probe in probes], dim=1).cpu().numpy()


def _groups(prompts: Sequence[Sequence[int]], num_blocks: int) -> Iterator[list[int]]:
    """Indices of prompts of similar length whose blocks fit the cache together."""
    group: list[int] = []
    used = 0
    for index in sorted(range(len(prompts)), key=lambda index: len(prompts[index])):
        needed = blocks_for(len(prompts[index]), BLOCK_SIZE)
        if group and used + needed > num_blocks:
            yield group
            group, used = [], 0
        group.append(index)
        used += needed
    yield group


def _plan(indices: Sequence[int], prompts: Sequence[Sequence[int]]) -> BatchPlan:
    """A batch that prefills whole prompts into the cache's first blocks."""
    slices, first = [], 0
    for index in indices:
        end = first + blocks_for(len(prompts[index]), BLOCK_SIZE)
        blocks = tuple(range(first, end))
        slices.append(SequenceSlice(index, 0, tuple(prompts[index]), blocks, True))
        first = end
    return BatchPlan(0, Phase.PREFILL, len(slices), tuple(slices), (), (), "")
