"""Next tokens from logits: greedy or drawn, with penalties, filters and log probabilities.

Order of operations on a row: forbid end tokens before min_tokens; repetition, frequency and
presence penalties; temperature; min-p; top-k; top-p; draw. A draw uses one uniform number that
depends only on the request's seed and the output position, so the same request gives the same
text in any batch, under any scheduler, before and after a preemption.
"""

import torch
from torch import Tensor

from tdpipe.core.batch_plan import Sample, SequenceStart
from tdpipe.core.sampling_params import SamplingParams
from tdpipe.execution.token_draws import draw, uniform
from tdpipe.execution.token_penalties import TokenCounts, penalize


class _Sequence:
    """What the sampler remembers of a request."""

    def __init__(self, start: SequenceStart) -> None:
        self.start = start
        self.params: SamplingParams = start.params
        self.num_outputs = 0
        params = start.params
        self.has_penalties = (
            params.repetition_penalty != 1.0
            or params.presence_penalty != 0.0
            or params.frequency_penalty != 0.0
        )
        self.counts = TokenCounts() if self.has_penalties else None

    @property
    def forbids_end(self) -> bool:
        return self.num_outputs < self.params.min_tokens and bool(self.start.end_token_ids)

    @property
    def is_plain(self) -> bool:
        """Greedy with nothing else to do: one argmax."""
        return (
            self.params.is_greedy
            and not self.has_penalties
            and self.params.logprobs is None
            and not self.forbids_end
        )


class Sampler:
    """Samples for the sequences it was told of; lives on the last stage."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self.vocab_size = vocab_size
        self.device = device
        self._sequences: dict[int, _Sequence] = {}

    def start(self, start: SequenceStart) -> None:
        """Begin (or, after a preemption, begin again) a sequence."""
        self._sequences[start.request_id] = _Sequence(start)

    def see(self, request_id: int, token_ids: tuple[int, ...], start: int) -> None:
        """Take note of tokens at positions start, start + 1, ... as they are computed."""
        sequence = self._sequences[request_id]
        num_prompt = sequence.start.num_prompt_tokens
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
        greedy: list[int] = logits.argmax(dim=-1).tolist()
        samples = [Sample(i, token) for i, token in zip(request_ids, greedy, strict=True)]
        special = [row for row, sequence in enumerate(sequences) if not sequence.is_plain]
        if special:
            # Indexing by a list copies the rows, so that the adjustments stay in here.
            chosen = [sequences[row] for row in special]
            for row, sample in zip(special, self._sample(chosen, logits[special]), strict=True):
                samples[row] = sample
        return samples

    def _sample(self, sequences: list[_Sequence], logits: Tensor) -> list[Sample]:
        raw = logits.log_softmax(dim=-1) if _want_logprobs(sequences) else None
        for row, sequence in zip(logits, sequences, strict=True):
            if sequence.forbids_end:
                row[list(sequence.start.end_token_ids)] = float("-inf")
            if sequence.counts is not None:
                penalize(row, sequence.counts, sequence.params)
        tokens: list[int] = logits.argmax(dim=-1).tolist()
        drawn = [row for row, one in enumerate(sequences) if not one.params.is_greedy]
        if drawn:
            params = [sequences[row].params for row in drawn]
            numbers = [uniform(sequences[r].start.seed, sequences[r].num_outputs) for r in drawn]
            for row, token in zip(drawn, draw(logits[drawn], params, numbers), strict=True):
                tokens[row] = token
        return [
            _report(sequence, token, None if raw is None else raw[row])
            for row, (sequence, token) in enumerate(zip(sequences, tokens, strict=True))
        ]


def _want_logprobs(sequences: list[_Sequence]) -> bool:
    return any(sequence.params.logprobs is not None for sequence in sequences)


def _report(sequence: _Sequence, token_id: int, raw: Tensor | None) -> Sample:
    """A sample with log probabilities of the model's own distribution, where asked for."""
    request_id, wanted = sequence.start.request_id, sequence.params.logprobs
    if raw is None or wanted is None:
        return Sample(request_id, token_id)
    values, ids = raw.topk(wanted) if wanted else (raw[:0], raw[:0])
    top = tuple((int(i), float(value)) for i, value in zip(ids, values, strict=True))
    return Sample(request_id, token_id, float(raw[token_id]), top)
