"""Batches made for measuring: enters a probe (how many sequences of what length), leave plans.

Block ids are handed out in turn, so that probes read and write memory as far apart as real
sequences do. The KV cache's memory is given by the system when it is first written, and reading it
before costs next to nothing; decode probes therefore read only blocks that prefill probes wrote.
"""

from dataclasses import dataclass

from tdpipe.core.batch_plan import BatchPlan, Phase, SequenceSlice, SequenceStart
from tdpipe.core.block_pool import blocks_for
from tdpipe.core.limits import Limits
from tdpipe.core.sampling_params import SamplingParams
from tdpipe.cost.cost_model import BatchLoad, prefill_pairs

GREEDY = SamplingParams(temperature=0.0, max_tokens=None, ignore_eos=True)
# Ids that every vocabulary has; which tokens are computed makes no difference to the time.
NUM_TOKEN_IDS = 8


@dataclass(frozen=True, slots=True)
class Probe:
    """A batch of equal prompts, of equal decodes, or of both.

    Attributes:
        num_prefills, prefill_tokens: prompts, and tokens of each.
        samples: whether the prompts yield a token.
        num_decodes, context_tokens: decoding sequences, and tokens that each of them reads.
    """

    num_prefills: int = 0
    prefill_tokens: int = 0
    samples: bool = False
    num_decodes: int = 0
    context_tokens: int = 0

    @property
    def load(self) -> BatchLoad:
        """The batch as the cost model sees it."""
        count, length = self.num_prefills, self.prefill_tokens
        return BatchLoad(
            prefill_tokens=count * length,
            prefill_pairs=count * prefill_pairs(0, length),
            decode_sequences=self.num_decodes,
            decode_context_tokens=self.num_decodes * self.context_tokens,
            sampled=self.num_decodes + count * self.samples,
        )

    def fits(self, limits: Limits) -> bool:
        """Whether the engine could hold such a batch."""
        longest = max(self.prefill_tokens, self.context_tokens)
        num_blocks = self.num_prefills * blocks_for(self.prefill_tokens, limits.block_size)
        num_blocks += self.num_decodes * blocks_for(self.context_tokens, limits.block_size)
        return longest <= limits.max_model_len and num_blocks <= limits.num_blocks


class ProbeBatches:
    """Makes plans for a pipeline whose sequences are nobody else's.

    Args:
        num_written: blocks of the cache that hold something already, from its beginning.
    """

    def __init__(self, limits: Limits, num_written: int = 0) -> None:
        self._limits = limits
        self._next_batch = 0
        self._next_request = 0
        self._num_written = num_written
        self._num_read = 0
        self._resident: list[int] = []

    def plans(self, probe: Probe, count: int) -> list[BatchPlan]:
        """`count` equal batches: prompts anew in each, the same decoding sequences in all."""
        decodes = [self._sequence(probe.context_tokens, 1, True) for _ in range(probe.num_decodes)]
        settled = [SequenceSlice(d.request_id, d.start, d.token_ids, (), True) for d in decodes]
        plans = []
        for index in range(count):
            released = tuple(self._resident)
            self._resident = []
            prefills = [
                self._sequence(probe.prefill_tokens, probe.prefill_tokens, probe.samples)
                for _ in range(probe.num_prefills)
            ]
            self._resident = [piece.request_id for piece in prefills]
            new = prefills + (decodes if index == 0 else [])
            slices = (*prefills, *(settled if index else decodes))
            starts = tuple(_start(piece) for piece in new)
            plans.append(self._plan(probe, slices, starts, released))
        self._resident += [piece.request_id for piece in decodes]
        return plans

    def _plan(
        self,
        probe: Probe,
        slices: tuple[SequenceSlice, ...],
        starts: tuple[SequenceStart, ...],
        released: tuple[int, ...],
    ) -> BatchPlan:
        phase = Phase.MIXED if probe.num_prefills else Phase.DECODE
        if not probe.num_decodes:
            phase = Phase.PREFILL
        self._next_batch += 1
        return BatchPlan(
            self._next_batch, phase, probe.num_prefills, slices, starts, released, "profile"
        )

    def _sequence(self, length: int, num_computed: int, samples: bool) -> SequenceSlice:
        """A new sequence of `length` tokens, the last num_computed of which are computed."""
        self._next_request += 1
        token_ids = tuple(index % NUM_TOKEN_IDS for index in range(num_computed))
        num_blocks = blocks_for(length, self._limits.block_size)
        block_ids = self._blocks(num_blocks, written=num_computed == length)
        return SequenceSlice(
            self._next_request, length - num_computed, token_ids, block_ids, samples
        )

    def _blocks(self, count: int, written: bool) -> tuple[int, ...]:
        """The next blocks of the cache, or of its part that was written before."""
        if written:
            first, turn = self._num_written, self._limits.num_blocks
            self._num_written += count
        else:
            first, turn = self._num_read, min(self._num_written or count, self._limits.num_blocks)
            self._num_read += count
        return tuple((first + index) % turn for index in range(count))


def _start(piece: SequenceSlice) -> SequenceStart:
    return SequenceStart(piece.request_id, piece.start + 1, GREEDY, 0, ())
