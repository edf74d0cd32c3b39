"""Next tokens from logits: greedy or drawn, with penalties, filters and log probabilities.

Order of operations on a row: forbid end tokens before min_tokens; repetition, frequency and
presence penalties; temperature; min-p; top-k; top-p; draw. A draw uses one uniform number that
depends only on the request's seed and the output position, so the same request gives the same
text in any batch, under any scheduler, before and after a preemption. Rows that need none of this
cost one argmax; the logits given are never written to.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tdpipe.core.batch_plan import Sample, SequenceStart
from tdpipe.core.sampling_params import SamplingParams
from tdpipe.execution.token_draws import draw, uniform
from tdpipe.execution.token_penalties import TokenCounts, has_penalties, penalize

Alternatives = tuple[tuple[int, float], ...]


class _Sequence:
    """What the sampler remembers of a request."""

    __slots__ = ("counts", "end_token_ids", "num_outputs", "num_prompt_tokens", "params", "seed")

    def __init__(self, start: SequenceStart, vocab_size: int) -> None:
        params: SamplingParams = start.params
        self.params = params
        self.seed = start.seed
        self.num_prompt_tokens = start.num_prompt_tokens
        # A request may name stop tokens that the model does not have: they cannot be sampled.
        self.end_token_ids = [one for one in start.end_token_ids if one < vocab_size]
        self.num_outputs = 0
        with_prompt = params.repetition_penalty != 1.0
        self.counts = TokenCounts(with_prompt) if has_penalties(params) else None

    @property
    def forbids_end(self) -> bool:
        return self.num_outputs < self.params.min_tokens and bool(self.end_token_ids)

    @property
    def is_adjusted(self) -> bool:
        """Whether its logits change before a token is chosen."""
        return self.counts is not None or self.forbids_end

    @property
    def is_plain(self) -> bool:
        """Whether its token is the argmax of the logits as they are."""
        return self.params.is_greedy and not self.is_adjusted


class Sampler:
    """Samples for the sequences it was told of; lives on the last stage."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self.vocab_size = vocab_size
        self.device = device
        self._sequences: dict[int, _Sequence] = {}

    def start(self, start: SequenceStart) -> None:
        """Begin (or, after a preemption, begin again) a sequence."""
        self._sequences[start.request_id] = _Sequence(start, self.vocab_size)

    def see(self, request_id: int, token_ids: tuple[int, ...], start: int) -> None:
        """Take note of tokens at positions start, start + 1, ... as they are computed."""
        sequence = self._sequences[request_id]
        num_prompt = sequence.num_prompt_tokens
        sequence.num_outputs += max(0, start + len(token_ids) - max(start, num_prompt))
        if sequence.counts is not None:
            border = max(0, num_prompt - start)
            sequence.counts.add_prompt(token_ids[:border])
            sequence.counts.add_output(token_ids[border:])

    def release(self, request_id: int) -> None:
        """Forget a sequence."""
        self._sequences.pop(request_id, None)

    def sample(self, request_ids: list[int], logits: Tensor) -> list[Sample]:
        """One token for each row of logits [rows, vocab] float32, which are not changed."""
        sequences = [self._sequences[request_id] for request_id in request_ids]
        tokens = _choose(sequences, logits)
        if all(sequence.params.logprobs is None for sequence in sequences):
            return [Sample(i, token) for i, token in zip(request_ids, tokens, strict=True)]
        reports = _log_probabilities(sequences, logits, tokens)
        return [
            Sample(request_id, token, *reports.get(row, (None, ())))
            for row, (request_id, token) in enumerate(zip(request_ids, tokens, strict=True))
        ]


def _choose(sequences: list[_Sequence], logits: Tensor) -> list[int]:
    rows = [row for row, sequence in enumerate(sequences) if not sequence.is_plain]
    if not rows:
        return _highest(logits)
    tokens = _highest(logits) if len(rows) < len(sequences) else [0] * len(rows)
    chosen = [sequences[row] for row in rows]
    adjusts = any(sequence.is_adjusted for sequence in chosen)
    # Indexing by a list copies the rows, so that the adjustments stay in here.
    part = logits[rows] if adjusts or len(rows) < len(sequences) else logits
    if adjusts:
        _adjust(part, chosen)
    for row, token in zip(rows, _greedy_or_drawn(part, chosen), strict=True):
        tokens[row] = token
    return tokens


def _highest(logits: Tensor) -> list[int]:
    """The token of the highest logit of each row, the first of equals."""
    # On a core numpy looks at a vector of logits at a time, torch at one.
    rows = logits.numpy() if logits.device.type == "cpu" else logits
    tokens: list[int] = rows.argmax(-1).tolist()
    return tokens


def _adjust(logits: Tensor, sequences: list[_Sequence]) -> None:
    """Forbid end tokens and apply penalties to logits [rows, vocab], in place."""
    forbidden = [
        (row, token_id)
        for row, sequence in enumerate(sequences)
        if sequence.forbids_end
        for token_id in sequence.end_token_ids
    ]
    if forbidden:
        rows, token_ids = torch.tensor(forbidden, device=logits.device).unbind(dim=1)
        logits[rows, token_ids] = float("-inf")
    penalized = [
        (row, sequence.counts, sequence.params)
        for row, sequence in enumerate(sequences)
        if sequence.counts is not None
    ]
    penalize(logits, penalized)


def _greedy_or_drawn(logits: Tensor, sequences: list[_Sequence]) -> list[int]:
    drawn = [row for row, sequence in enumerate(sequences) if not sequence.params.is_greedy]
    if not drawn:
        return _highest(logits)
    params = [sequences[row].params for row in drawn]
    numbers = [uniform(sequences[row].seed, sequences[row].num_outputs) for row in drawn]
    if len(drawn) == len(sequences):
        return draw(logits, params, numbers)
    tokens = _highest(logits)
    for row, token in zip(drawn, draw(logits[drawn], params, numbers), strict=True):
        tokens[row] = token
    return tokens


def _log_probabilities(
    sequences: list[_Sequence], logits: Tensor, tokens: Sequence[int]
) -> dict[int, tuple[float, Alternatives]]:
    """By row, for those who asked: natural logs in the model's own distribution."""
    asked = {
        row: sequence.params.logprobs
        for row, sequence in enumerate(sequences)
        if sequence.params.logprobs is not None
    }
    raw = logits[list(asked)].log_softmax(dim=-1)
    sampled = torch.tensor([[tokens[row]] for row in asked], device=logits.device)
    own = raw.gather(1, sampled)[:, 0].tolist()
    values, ids = (part.tolist() for part in raw.topk(min(max(asked.values()), raw.shape[-1])))
    return {
        row: (own[place], tuple(zip(ids[place][:count], values[place][:count], strict=True)))
        for place, (row, count) in enumerate(asked.items())
    }
