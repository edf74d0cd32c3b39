"""Random draws that do not depend on the batch: filters, then the inverse of the distribution."""

import torch
from torch import Tensor

from tdpipe.core.sampling_params import SamplingParams

_MASK = (1 << 64) - 1


def uniform(seed: int, position: int) -> float:
    """A number in (0, 1) fixed by seed and position (SplitMix64, Steele et al. 2014)."""
    return (_mix(_mix(seed & _MASK) + position & _MASK) >> 11) * 2.0**-53 + 2.0**-54


def _mix(state: int) -> int:
    state = state + 0x9E3779B97F4A7C15 & _MASK
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
    return state ^ state >> 31


def draw(logits: Tensor, params: list[SamplingParams], numbers: list[float]) -> list[int]:
    """A token for each row of logits [rows, vocab]: the inverse distribution at numbers[row].

    Rows with filters walk their tokens from the likeliest down, others in order of token id.
    """
    temperatures = torch.tensor([one.temperature for one in params], device=logits.device)
    scaled = logits / temperatures[:, None]
    plain = [row for row, one in enumerate(params) if not _filters(one)]
    filtered = [row for row, one in enumerate(params) if _filters(one)]
    tokens = [0] * len(params)
    if plain:
        probabilities = scaled[plain].double().softmax(dim=-1)
        picked = _invert(probabilities, [numbers[row] for row in plain]).tolist()
        for row, token in zip(plain, picked, strict=True):
            tokens[row] = token
    if filtered:
        # A stable sort keeps tokens of equal logit in order of id.
        values, order = scaled[filtered].sort(dim=-1, descending=True, stable=True)
        kept = _filter(values.double(), [params[row] for row in filtered])
        places = _invert(kept, [numbers[row] for row in filtered])
        for row, token in zip(
            filtered, order.gather(1, places[:, None])[:, 0].tolist(), strict=True
        ):
            tokens[row] = token
    return tokens


def _filters(params: SamplingParams) -> bool:
    return params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0


def _filter(logits: Tensor, params: list[SamplingParams]) -> Tensor:
    """Probabilities [rows, vocab] of logits sorted downwards, 0 where filtered out."""
    vocab = logits.shape[-1]
    device = logits.device
    min_p = torch.tensor([one.min_p for one in params], device=device)[:, None]
    top_k = torch.tensor([one.top_k if one.top_k > 0 else vocab for one in params], device=device)
    top_p = torch.tensor([one.top_p for one in params], dtype=logits.dtype, device=device)[:, None]
    probabilities = logits.softmax(dim=-1)
    dropped = probabilities < min_p * probabilities[:, :1]
    dropped |= torch.arange(vocab, device=device)[None] >= top_k[:, None]
    probabilities = logits.masked_fill(dropped, float("-inf")).softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    # A token stays if those before it have not reached top_p; the first one always does.
    return probabilities.masked_fill((before >= top_p) & (top_p < 1.0), 0.0)


def _invert(weights: Tensor, numbers: list[float]) -> Tensor:
    """First index at which the cumulative weight exceeds number x total, for each row."""
    cumulative = weights.cumsum(dim=-1)
    at = torch.tensor(numbers, dtype=weights.dtype, device=weights.device)[:, None]
    places = torch.searchsorted(cumulative, at * cumulative[:, -1:], right=True)
    # Rounding may lead past the last token of any weight.
    last = (weights > 0).long().cumsum(dim=-1).argmax(dim=-1, keepdim=True)
    return torch.minimum(places, last)[:, 0]
