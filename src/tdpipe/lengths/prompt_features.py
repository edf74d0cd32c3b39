"""Features of prompts from their token ids alone: hashed tokens and pairs, and a few sizes.

A row is sparse: each token and each pair of neighbours falls into one of NUM_BUCKETS by a hash; a
bucket's value is 1 + log(count), and a row's values have length 1. Beside it stand NUM_SHAPE dense
numbers. Of a very long prompt only its beginning and its end are looked at, where the instruction
is; what it costs does not grow beyond that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log1p

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BUCKET_BITS = 15
NUM_BUCKETS = 1 << BUCKET_BITS
# Tokens looked at, at either end of a prompt.
END_TOKENS = 512
NUM_SHAPE = 3

# Odd multipliers; the product's upper bits are the hash (multiply-shift, Dietzfelbinger 1997).
_TOKEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xC2B2AE3D27D4EB4F)
_SECOND = np.uint64(0x165667B19E3779F9)
_SHIFT = np.uint64(64 - BUCKET_BITS)


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """Features of several prompts.

    Attributes:
        rows, buckets, values: [entries], the sparse part: values[i] at (rows[i], buckets[i]).
        shape: [prompts, NUM_SHAPE], the dense part.
    """

    rows: Ints
    buckets: Ints
    values: Floats
    shape: Floats

    def dot(self, weights: Floats, shape_weights: Floats) -> Floats:
        """Products [prompts] with weights [NUM_BUCKETS] and shape_weights [NUM_SHAPE]."""
        terms = weights[self.buckets] * self.values
        sums = np.bincount(self.rows, terms, minlength=len(self.shape))
        products: Floats = sums + self.shape @ shape_weights
        return products


def prompt_features(prompts: Sequence[Sequence[int]]) -> FeatureRows:
    """Features of prompts given as token ids; [] gives no rows."""
    looked_at = [_ends(prompt) for prompt in prompts]
    counts = np.array([len(tokens) for tokens in looked_at], np.int64)
    tokens = np.array([token for one in looked_at for token in one], np.uint64)
    owners = np.repeat(np.arange(len(prompts)), counts)
    joined = owners[1:] == owners[:-1]  # a pair is of one prompt
    hashes = np.concatenate([tokens * _TOKEN, tokens[:-1] * _FIRST + tokens[1:] * _SECOND])
    kept = np.concatenate([np.ones(len(tokens), bool), joined])
    places = np.concatenate([owners, owners[1:]])
    keys = (places << BUCKET_BITS) + (hashes >> _SHIFT).astype(np.int64)
    if len(prompts) > 1:
        keys = keys[kept]
    unique, times = _counted(keys)
    rows, values = unique >> BUCKET_BITS, 1.0 + np.log(times)
    norms = np.sqrt(np.bincount(rows, values * values, minlength=len(prompts)))
    shape = _shape(prompts, tokens, owners, counts)
    return FeatureRows(rows, unique & (NUM_BUCKETS - 1), values / norms[rows], shape)


def _ends(prompt: Sequence[int]) -> Sequence[int]:
    if len(prompt) <= 2 * END_TOKENS:
        return prompt
    return [*prompt[:END_TOKENS], *prompt[-END_TOKENS:]]


def _counted(keys: Ints) -> tuple[Ints, Ints]:
    """Distinct keys, rising, and how often each occurs; half as long as numpy's own takes."""
    if not len(keys):
        return keys, keys
    ordered = np.sort(keys)
    bounds = np.concatenate([[0], (ordered[1:] != ordered[:-1]).nonzero()[0] + 1, [len(keys)]])
    return ordered[bounds[:-1]], bounds[1:] - bounds[:-1]


def _shape(
    prompts: Sequence[Sequence[int]], tokens: npt.NDArray[np.uint64], owners: Ints, counts: Ints
) -> Floats:
    """[prompts, NUM_SHAPE]: log length, its square, and how rare its tokens are.

    A tokenizer gives frequent pieces low ids, so a high mean of their logarithms means rare words.
    """
    shape = np.empty((len(prompts), NUM_SHAPE))
    shape[:, 0] = [log1p(len(prompt)) for prompt in prompts]
    shape[:, 1] = shape[:, 0] ** 2
    logs = np.log1p(tokens.astype(np.float64))
    shape[:, 2] = np.bincount(owners, logs, minlength=len(prompts)) / np.maximum(counts, 1)
    return shape
