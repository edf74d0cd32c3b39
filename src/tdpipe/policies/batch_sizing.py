"""How many tokens the batches of the coming rounds shall hold, and which limit decided it.

All batches in a pipeline should take the same time, and none less than the read of the weights
pays for. Four limits, in tokens per batch; the smallest counts:

efficient   enough to compute near the best rate; a little less counts as enough while the cache is
            full, where small batches let finished requests be replaced sooner, and more is allowed
            where all that waits fits
chain       the steps of a request follow each other, one a round. In batches of n tokens the
            waiting prompts come in while decodes gather beside them (prompt_phase); after the last
            prompt the pipeline takes a round for as long as any request is alive (run_tail):
                run time(n) = (batches with prompts + P - 1) x time(n)
                              + sum over the rounds after them of P x step(alive / P)
            The limit is the largest n with the least run time: small batches make short rounds, in
            which the longest requests come on while others fill their batches up; large ones are
            more efficient and let the last start sooner. Batches that decodes alone would fill let
            no prompt in.
fill        while nothing decodes yet, the T tokens of waiting prompts pass P stages in batches of n
            tokens in (T / n + P - 1) x time(n): the n with the least of that
flow        with a full cache, prompts can come in only as fast as decoding makes room:
            decodes per batch x (1 + waiting prompt tokens / tokens still to be generated)

No batch need be smaller than what is free, because the weights are read anyway. And one exception:

prefill     where all that waits fits the cache to its end, and is enough to decode without prompts
            beside, nothing is gained by prompts that come later: one delays the others by its
            prefill and no more, while the last to start may prove to be the longest. Beside its
            decodes a batch then takes a fixed share of the prompts still waiting. Not so where
            forecasts say that a few run on alone for long (tail_share): then the others are what
            fills their batches.

Whatever the limit, no batch takes more than a share of the prompts still waiting: several a stage,
ever smaller ones, so that the stages fill up and the last prompt passes them soon.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import NamedTuple

from tdpipe.cost.cost_model import BatchLoad, CostModel, decode_load, slowest_stage_time_s
from tdpipe.policies.prompt_phase import PromptPhase, prompt_phase
from tdpipe.policies.run_tail import Group, tail
from tdpipe.policies.saturation import batch_time_s, efficient_tokens, free_tokens

AMPLE_SHARE, SCARCE_SHARE = 0.985, 0.95
# Share of the blocks that the forecast must leave for the flow limit not to apply.
OPEN_SHARE = 0.3
# Batches for each stage that the waiting prompts are cut into, where all of them fit.
PREFILL_BATCHES = 4
# Where all prompts fit, batches of so many tokens are tried: of prompts alone they may compute a
# little faster still. Towards the last prompt they shrink, to this multiple of the scarce size.
LARGEST = 2048
LAST_SIZES = 2
# Sizes are tried in steps of this ratio; run times that differ by less than a share of
# INDIFFERENCE are taken as equal.
STEP_RATIO = 1.1
INDIFFERENCE = 0.005


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known of the rest of the run.

    Attributes:
        prompt_tokens: waiting to be prefilled.
        output_tokens: expected from waiting and resident requests together.
        resident, waiting: requests by tokens expected to come, the longest first.
        decodes: mean decodes in a batch.
        room: share of the blocks that the forecast leaves free at its peak.
        is_full: nothing that waits fits the forecast.
        all_fit: all that waits fits the forecast at once.
        num_requests: waiting and resident.
        num_waiting: waiting.
        most_decodes: of a batch, that the cache has room for.
        kv_rounds: rounds that all that is to be stored takes with a cache that is always full.
    """

    prompt_tokens: int
    output_tokens: int
    resident: Sequence[Group]
    waiting: Sequence[Group]
    decodes: float
    room: float
    is_full: bool
    all_fit: bool
    num_requests: int
    num_waiting: int
    most_decodes: float
    kv_rounds: float

    @property
    def tokens_left(self) -> int:
        return self.prompt_tokens + self.output_tokens


class BatchSize(NamedTuple):
    """Tokens of a batch, and the name of the limit that set them."""

    tokens: int
    limit: str


class BatchSizing:
    """Batch sizes for one pipeline."""

    def __init__(self, cost: CostModel) -> None:
        self.cost = cost
        self.num_stages = cost.num_stages
        self.free = free_tokens(cost)
        self.ample = efficient_tokens(cost, AMPLE_SHARE)
        self.scarce = efficient_tokens(cost, SCARCE_SHARE)
        self._steps_s: dict[int, float] = {}
        sizes = [self.free]
        self.largest = max(self.ample, LARGEST)
        while sizes[-1] < self.largest:
            sizes.append(int(sizes[-1] * STEP_RATIO) + 1)
        self._times_s = [(size, batch_time_s(cost, size)) for size in sizes]

    def size(self, outlook: Outlook) -> BatchSize:
        """The smallest of the limits, but not less than what is free, or the prompts call for."""
        efficient = self.scarce if outlook.is_full else self.ample
        if outlook.all_fit:
            efficient = self.largest
        limits = {
            "efficient": float(efficient),
            "chain": float(self._chain_limit(outlook, efficient)),
        }
        if outlook.room < OPEN_SHARE:
            ratio = outlook.prompt_tokens / max(1, outlook.output_tokens)
            limits["flow"] = outlook.decodes * (1 + ratio)
        if outlook.prompt_tokens and not outlook.decodes:
            limits["fill"] = float(self._fill_limit(outlook.prompt_tokens))
        name = min(limits, key=lambda limit: limits[limit])
        share = outlook.prompt_tokens / (PREFILL_BATCHES * self.num_stages)
        at_once = outlook.decodes + max(self.free, share)
        decodes_pay = outlook.num_requests / self.num_stages >= self.ample
        if outlook.all_fit and decodes_pay and at_once > limits[name]:
            return BatchSize(int(at_once), "prefill")
        if limits[name] <= self.free:
            return BatchSize(self.free, "free")
        return BatchSize(int(limits[name]), name)

    def shrunk(self, tokens: int, decodes: int, prompt_tokens: int) -> int:
        """Of batches of so many tokens, the size of the next one: the last ones are ever smaller.

        Args:
            decodes: of this batch.
            prompt_tokens: waiting to be prefilled.
        """
        share = prompt_tokens // (PREFILL_BATCHES * self.num_stages)
        return min(tokens, max(LAST_SIZES * self.scarce, decodes + share))

    def rounds_left(self, outlook: Outlook, size: BatchSize) -> float:
        """Rounds of P batches of that size that are left, or more if the cache is too small."""
        return max(outlook.kv_rounds, outlook.tokens_left / (self.num_stages * size.tokens))

    def tail_share(self, remaining: Sequence[int], prompt_tokens: int) -> float:
        """Share of the run lost at its end if all start now, with that many tokens to come each.

        With m = P x free requests alive, all batches are full. The m longest run on in batches ever
        less full, for longest - mean(m longest) full rounds' worth of time; the whole run is worth
        (prompt tokens + tokens to come) / m.
        """
        number = self.num_stages * self.free
        longest = nlargest(number, remaining)
        lost = longest[0] - sum(longest) / number if longest else 0.0
        return lost * number / max(1, prompt_tokens + sum(remaining))

    def _fill_limit(self, prompt_tokens: int) -> int:
        """The size of batches in which an empty pipeline has prefilled so many tokens soonest."""
        others = self.num_stages - 1
        return min(self._times_s, key=lambda one: (prompt_tokens / one[0] + others) * one[1])[0]

    def _chain_limit(self, outlook: Outlook, most: int) -> int:
        """The largest size with the least run time, of those up to about `most`."""
        sizes = [one for one in self._times_s if one[0] <= most * STEP_RATIO]
        if outlook.prompt_tokens:
            # Batches that their decodes fill would let no prompt in.
            sizes = [one for one in sizes if one[0] > outlook.decodes] or sizes[-1:]
        run_times_s = [(self._run_time_s(outlook, size), size) for size, _ in sizes]
        least_s = min(run_times_s)[0]
        return max(size for run_s, size in run_times_s if run_s <= (1 + INDIFFERENCE) * least_s)

    def _run_time_s(self, outlook: Outlook, size: int) -> float:
        """Of what is left, in batches of that size: prompts beside decodes, then decodes alone."""
        stages = self.num_stages
        prompt_rounds = prompts_s = 0.0
        if outlook.prompt_tokens:
            phase = self._prompt_phase(outlook, size)
            prompt_rounds = phase.rounds
            # The last one passes the other stages, too; it will be smaller (`shrunk`).
            last = min(1.0, LAST_SIZES * self.scarce / phase.tokens)
            batches = prompt_rounds * stages + last * (stages - 1)
            prompts_s = batches * self._mixed_time_s(outlook, phase)
        tail_s = sum(
            # Less than one request: with that chance there is one.
            rounds * min(1.0, alive) * self._step_s(alive / stages)
            for rounds, alive in tail(outlook.resident, outlook.waiting, prompt_rounds)
        )
        return prompts_s + stages * tail_s

    def _step_s(self, decodes: float) -> float:
        """Time of a batch of so many decodes on the slowest stage; reading their cache left out."""
        number = max(1, round(decodes))
        found = self._steps_s.get(number)
        if found is None:
            load = decode_load(number, 0)
            found = self._steps_s[number] = slowest_stage_time_s(self.cost, load)
        return found

    def _prompt_phase(self, outlook: Outlook, size: int) -> PromptPhase:
        """Until the last prompt has been read."""
        # As many as decode at a time: some of the residents may still be prefilled.
        number = sum(group.number for group in outlook.resident)
        share = outlook.decodes / max(1, number)
        residents, alive = [], outlook.decodes
        for group in reversed(outlook.resident):
            residents.append((group.tokens, min(alive, size - 1)))
            alive -= share * group.number
        return prompt_phase(
            size,
            residents,
            max(outlook.decodes, outlook.most_decodes),
            outlook.prompt_tokens / self.num_stages,
            outlook.prompt_tokens / max(1, outlook.num_waiting),
            max(1.0, outlook.output_tokens / max(1, outlook.num_requests)),
        )

    def _mixed_time_s(self, outlook: Outlook, phase: PromptPhase) -> float:
        """Time of a batch while prompts are read, on the slowest stage; attention left out."""
        prefills = phase.tokens - phase.decodes
        started = prefills * outlook.num_waiting / outlook.prompt_tokens
        load = BatchLoad(
            prefill_tokens=round(prefills),
            decode_sequences=round(phase.decodes),
            sampled=round(phase.decodes + started),
        )
        return slowest_stage_time_s(self.cost, load)
