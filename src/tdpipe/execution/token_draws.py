"""Random draws that do not depend on the batch: the inverse of a row's distribution at one number.

Rows with filters (min-p, top-k, top-p) walk their tokens from the likeliest down, equals in order
of token id; the others walk in order of token id, which needs no sorting.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tdpipe.core.sampling_params import SamplingParams
from tdpipe.execution.token_filters import has_filters, likeliest

_MASK = (1 << 64) - 1
# Bounds the memory of one step: about 20 bytes for each of so many logits.
_MAX_LOGITS = 1 << 24
# Most distributions keep fewer tokens than this after filtering; picking them is much cheaper than
# sorting a vocabulary.
_NUM_CANDIDATES = 512
# Colder than this is greedy in float32 anyway, and dividing by it still gives a number.
_COLDEST = 1e-30


def uniform(seed: int, position: int) -> float:
    """A number in (0, 1) fixed by seed and position (SplitMix64, Steele et al. 2014)."""
    mixed = _mix((_mix(seed & _MASK) + position) & _MASK)
    return (mixed >> 12) * 2.0**-52 + 2.0**-53


def _mix(state: int) -> int:
    state = (state + 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)


def draw(logits: Tensor, params: Sequence[SamplingParams], numbers: Sequence[float]) -> list[int]:
    """A token for each row of logits [rows, vocab]: the inverse distribution at numbers[row]."""
    tokens = [0] * len(params)
    step = max(1, _MAX_LOGITS // logits.shape[-1])
    for filtered in (False, True):
        rows = [row for row, one in enumerate(params) if has_filters(one) == filtered]
        pick = _pick_filtered if filtered else _pick_any
        for first in range(0, len(rows), step):
            part = rows[first : first + step]
            some = logits if len(part) == len(params) else logits[part]
            settings = [params[row] for row in part]
            picked = pick(_scale(some, settings), settings, [numbers[row] for row in part])
            for row, token in zip(part, picked, strict=True):
                tokens[row] = token
    return tokens


def _scale(logits: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Logits [rows, vocab] over temperature, moved so that each row's likeliest token has 0."""
    temperatures = [max(one.temperature, _COLDEST) for one in params]
    divisor = torch.tensor(temperatures, dtype=logits.dtype, device=logits.device)
    return (logits - logits.amax(dim=-1, keepdim=True)).div_(divisor[:, None])


def _pick_any(
    scaled: Tensor, params: Sequence[SamplingParams], numbers: Sequence[float]
) -> list[int]:
    tokens: list[int] = _invert(scaled.exp(), numbers).tolist()
    return tokens


def _pick_filtered(
    scaled: Tensor, params: Sequence[SamplingParams], numbers: Sequence[float]
) -> list[int]:
    """Tokens from a few candidates per row; rows that keep more of them sort the vocabulary."""
    found = likeliest(scaled, params, _NUM_CANDIDATES)
    places = _invert(found.weights, numbers)
    tokens: list[int] = found.token_ids.gather(1, places[:, None])[:, 0].tolist()
    open_rows = [row for row, whole in enumerate(found.is_whole.tolist()) if not whole]
    if open_rows:
        settings = [params[row] for row in open_rows]
        found = likeliest(scaled[open_rows], settings, scaled.shape[-1])
        places = _invert(found.weights, [numbers[row] for row in open_rows])
        picked = found.token_ids.gather(1, places[:, None])[:, 0].tolist()
        for row, token in zip(open_rows, picked, strict=True):
            tokens[row] = token
    return tokens


def _invert(weights: Tensor, numbers: Sequence[float]) -> Tensor:
    """First index of weights [rows, n] whose cumulative weight exceeds number x total, per row."""
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    # A number below 1 times the total, which is 1 or more, also rounds to less than the total: the
    # index is that of a token with weight.
    at = torch.tensor(numbers, dtype=torch.float64, device=weights.device)[:, None]
    at = at * cumulative[:, -1:]
    # Logits that are not numbers must not lead past the end: a bad request fails alone.
    return torch.searchsorted(cumulative, at, right=True)[:, 0].clamp(max=weights.shape[-1] - 1)
