"""A made-up model whose outputs' lengths depend on one token of the prompt and on its state."""

import numpy as np

from tdpipe.core.model_shape import ModelShape
from tdpipe.lengths.length_table import LengthRecord, LengthTable
from tdpipe.lengths.model_identity import ModelIdentity
from tdpipe.lengths.prompt_depths import PromptStates

HIDDEN = 16
DEPTH = 3
DIGEST = "d" * 32
SHAPE = ModelShape(4, HIDDEN, 32, 2, 1, 8, 50_000, True)
IDENTITY = ModelIdentity("made-up", DIGEST, SHAPE)
# Of four scripts' worth of token ids, and what a prompt with that token asks for.
TOPICS = {11: 8, 900: 40, 21_000: 150, 49_000: 600}
LIMIT = 512


def table(count, seed=0, parts=True):
    """Records; a fifth of the outputs or so is cut at LIMIT."""
    draws = np.random.default_rng(seed)
    records = []
    for index in range(count):
        topic = int(draws.choice(list(TOPICS)))
        filling = draws.integers(1, 50_000, int(draws.integers(3, 40))).tolist()
        tokens = (1, topic, *filling, 2)
        whole = int(np.ceil(TOPICS[topic] * np.exp(0.4 * draws.normal())))
        part = ("train", "validation", "test", "train")[index % 4]
        name = f"{part}/{index}" if parts else f"{index}"
        reason = "length" if whole > LIMIT else "stop"
        records.append(LengthRecord(name, tokens, min(whole, LIMIT), reason, LIMIT))
    return LengthTable("made-up", DIGEST, 0.0, tuple(records))


def states(prompts):
    """[prompts, HIDDEN] after DEPTH layers: the topic is in a direction, beside noise."""
    draws = np.random.default_rng(5)
    rows = draws.normal(size=(len(prompts), HIDDEN))
    rows[:, 3] += [3 * np.log(TOPICS[prompt[1]]) for prompt in prompts]
    return rows.astype(np.float32)


def depths(prompts):
    """The same between depths at which there is less of the topic, or nothing."""
    told, draws = states(prompts), np.random.default_rng(6)
    noise = draws.normal(size=told.shape).astype(np.float32)
    return PromptStates((2, DEPTH, 4), np.stack([noise, told, told + 4 * noise], axis=1))
