"""Which tokens min-p, top-k and top-p keep, in that order, found without sorting a vocabulary.

min-p drops tokens below min_p times the likeliest one's probability. top-k keeps exactly k tokens;
of equally likely ones those of lower id. top-p, over what is left, keeps a token unless those
before it reach top_p already, so the likeliest token always stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tdpipe.core.sampling_params import SamplingParams


def has_filters(params: SamplingParams) -> bool:
    """Whether any token may be dropped."""
    return params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0


@dataclass(frozen=True, slots=True)
class Likeliest:
    """The likeliest tokens of some rows, most likely first, equals in order of token id.

    token_ids: [rows, n] int64. weights: [rows, n], in proportion to probability, 0 where dropped.
    is_whole: [rows] bool, whether these hold all tokens that the row's filters keep; of other rows
    the weights mean nothing.
    """

    token_ids: Tensor
    weights: Tensor
    is_whole: Tensor


def likeliest(scaled: Tensor, params: Sequence[SamplingParams], size: int) -> Likeliest:
    """The `size` likeliest tokens of each row, filtered.

    scaled [rows, vocab] float32 are logits over temperature of which each row's largest is 0.
    """
    vocab, device = scaled.shape[-1], scaled.device
    size = min(size, vocab)
    min_p = torch.tensor([one.min_p for one in params], dtype=scaled.dtype, device=device)[:, None]
    top_k = torch.tensor([one.top_k if one.top_k > 0 else vocab for one in params], device=device)
    top_p = torch.tensor([one.top_p for one in params], dtype=torch.float64, device=device)
    values, token_ids = _sorted(scaled, size)
    weights = scaled.exp()  # of the likeliest token: 1
    passing = weights >= min_p
    num_passing = passing.sum(dim=-1)
    num_kept = torch.minimum(num_passing, top_k).clamp(min=1)  # 0 if logits are not numbers
    mass = weights.where(passing, 0.0).sum(dim=-1, dtype=torch.float64)  # [rows], before top-k
    weights = weights.gather(1, token_ids)
    upto = weights.cumsum(dim=-1, dtype=torch.float64)  # [rows, size]
    inside = num_kept <= size
    mass = upto.gather(1, num_kept.clamp(max=size)[:, None] - 1)[:, 0].where(inside, mass)
    before = upto - weights
    kept = torch.arange(size, device=device)[None] < num_kept[:, None]
    kept &= (before < (top_p * mass)[:, None]) | (top_p >= 1.0)[:, None]
    if size == vocab:
        is_whole = torch.ones_like(inside)
    else:
        # A last token equal to the border might stand for another one of lower id beyond it. And
        # the mass is not known where top-k cuts beyond the border.
        num_left = kept.sum(dim=-1, keepdim=True).clamp(min=1)
        last = values.gather(1, num_left - 1)
        is_whole = (last > values[:, -1:])[:, 0] & (inside | (top_k >= num_passing))
    return Likeliest(token_ids, weights.where(kept, 0.0), is_whole)


def _sorted(scaled: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The largest `size` values of each row downwards, equals by index; and their indices."""
    if size == scaled.shape[-1]:
        values, token_ids = scaled.sort(dim=-1, descending=True, stable=True)
        return values, token_ids
    token_ids = scaled.topk(size, dim=-1, sorted=False).indices.sort(dim=-1).values
    values, order = scaled.gather(1, token_ids).sort(dim=-1, descending=True, stable=True)
    return values, token_ids.gather(1, order)
