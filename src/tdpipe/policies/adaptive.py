"""The default scheduler: equal batches, a cache that is full by forecast, critical requests first.

TD-Pipe keeps phases apart because batches of different length leave bubbles. This scheduler makes
all batches alike instead: each holds its share of the decodes, chosen by time rather than number,
and is filled up with prefill to a common size (batch_sizing). What may be prefilled is decided by
the forecast of the KV cache (kv_timeline), in the order that keeps the end of the run short
(admission_order). While nothing decodes yet, or the cache has room for all that waits, that is
TD-Pipe's prefill phase in other words; where memory is scarce, prefill rides on the weights that
decoding reads anyway.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from math import sqrt
from operator import attrgetter

from tdpipe.core.engine_state import EngineState
from tdpipe.core.request import Request
from tdpipe.cost.cost_model import CostModel, decode_load
from tdpipe.policies.admission import free_places
from tdpipe.policies.admission_order import AdmissionOrder, Sums
from tdpipe.policies.batch_sizing import BatchSize, BatchSizing, Outlook
from tdpipe.policies.decode_turns import decode_batches_in_flight
from tdpipe.policies.kv_timeline import KVTimeline
from tdpipe.policies.length_survival import LengthSurvival
from tdpipe.policies.policy import Choice, PrefillChunk
from tdpipe.policies.preemption import make_room
from tdpipe.policies.prefill_draft import PrefillDraft
from tdpipe.policies.run_tail import Group, grouped
from tdpipe.policies.shared_blocks import SharedBlocks

# The forecast is a sum over n residents, whose errors cancel out in part: 1 / sqrt(n) of this share
# of the blocks stays free to absorb what remains.
RESERVE = 0.7
# The forecast is made anew after that many rounds, or once 1 in 50 residents has ended.
ROUNDS_PER_FORECAST = 8
ENDED_SHARE = 0.02
# Share of the run that may go on in batches too small for their weights, were all to start at once.
MOST_TAIL = 0.3
# Share of its tokens that a request may generate after all others, on average.
OVERHANG_SHARE = 0.05
# A decode batch is first looked for within so many requests of a P-th of all.
NEAR = 4


class Adaptive:
    """Scheduler for pipelines of any number of stages.

    Args:
        cost: decides batch sizes and balances the decode batches.
    """

    def __init__(self, cost: CostModel) -> None:
        self.cost = cost
        self.sizing = BatchSizing(cost)
        self.order = AdmissionOrder()
        self.survival = LengthSurvival()
        self.timeline: KVTimeline | None = None
        self.size = BatchSize(self.sizing.ample, "start")
        self._is_full = False
        self._batches_since_forecast = 0
        self._ended_at_forecast = 0
        self._sent: deque[tuple[int, int]] = deque()  # (decodes, context tokens) in flight
        self._reason = ""

    def __repr__(self) -> str:
        return f"Adaptive(size={self.size}, full={self._is_full})"

    def plan(self, state: EngineState, now_s: float) -> Choice | None:
        if decode_batches_in_flight(state) >= state.limits.num_stages:
            return None
        self._refresh(state)
        lane, context = self._next_lane(state)
        decodes, victims = hold_back(state, lane)
        if decodes is not lane:
            context = sum([request.num_scheduled for request in decodes])
        # Blocks just taken from a request must not go to a newer one.
        chunks = () if victims else self._chunks(state, decodes)
        if not decodes and not chunks:
            return None
        self._batches_since_forecast += 1
        self._sent.append((len(decodes), context))
        reason, self._reason = self._reason, ""
        ids = tuple([request.request_id for request in decodes])
        return Choice(prefills=chunks, decodes=ids, preempted=victims, reason=reason)

    # ---- outlook

    def _refresh(self, state: EngineState) -> None:
        """Make the forecast anew when it is due, and set the batch size by it."""
        ended = state.num_finished + state.num_preemptions
        if self.timeline is None:
            self.timeline = KVTimeline(state.limits.block_size, self.survival.remaining)
        elif not state.waiting or not self._is_stale(state, ended):
            return
        self._batches_since_forecast, self._ended_at_forecast = 0, ended
        self.order.follow(state)
        self.survival.learn()
        outlook = self._outlook(state, self.timeline)
        size = self.sizing.size(outlook)
        self.order.spread(self.sizing.rounds_left(outlook, size), self._rounds_needed)
        if size.limit != self.size.limit:
            self._reason = _explain(size, outlook, state)
        self.size, self._is_full = size, False

    def _rounds_needed(self, key: int, waiting: Sums) -> float:
        """Rounds before the end in which requests of a class may not start.

        It takes their mean length at least. What a few then still generate when all else is done
        costs as much as whole batches, so on average it may be a small share of the class's work.
        """
        most = waiting.mean_max_tokens
        length = self.survival.mean_tokens(key, most)
        overhang = OVERHANG_SHARE * (waiting.mean_prompt_tokens + length)
        return max(length, self.survival.tokens_until(key, overhang, most))

    def _is_stale(self, state: EngineState, ended: int) -> bool:
        rounds = self._batches_since_forecast / state.limits.num_stages
        ended -= self._ended_at_forecast
        share = ENDED_SHARE * len(state.resident)
        return rounds >= ROUNDS_PER_FORECAST or ended > share or not state.resident

    def _outlook(self, state: EngineState, timeline: KVTimeline) -> Outlook:
        residents = list(state.resident.values())
        remaining = self.survival.remaining_of(residents)
        longest = max(remaining, default=1)
        self.order.drop_aborted(state)
        by_forecast = self.order.by_forecast()
        to_come = list(self._to_come(by_forecast))
        groups = [group for _, groups in to_come for group in groups]
        waiting = grouped(sorted(groups, key=attrgetter("tokens"), reverse=True))
        shared = SharedBlocks.of(state)
        longest_waiting = round(waiting[0].tokens) if waiting else 0
        timeline.rebuild(residents, remaining, max(longest, longest_waiting), shared)
        expected = sum(
            one.forecast_tokens * self.survival.mean_ratio(key, one.mean_max_tokens)
            for key, one in by_forecast.items()
        )
        output_tokens = round(expected) + sum(remaining)
        return Outlook(
            prompt_tokens=state.num_tokens_to_prefill,
            output_tokens=output_tokens,
            resident=grouped(Group(1, tokens) for tokens in sorted(remaining, reverse=True)),
            waiting=waiting,
            decodes=state.num_decoding / state.limits.num_stages,
            room=1 - max(timeline.blocks) / state.limits.num_blocks,
            is_full=self._is_full,
            all_fit=self._all_fit(state, remaining),
            num_requests=len(state.waiting) + len(residents),
            num_waiting=len(state.waiting),
            most_decodes=most_decodes(state, output_tokens),
            kv_rounds=kv_token_rounds(residents, remaining, to_come)
            / (state.limits.num_blocks * state.limits.block_size),
        )

    def _to_come(self, by_forecast: dict[int, Sums]) -> Iterator[tuple[Sums, list[Group]]]:
        """Those that wait, by the lengths that so many of equal forecast are expected to have."""
        for key, one in by_forecast.items():
            found, before = [], 0
            while before < one.number:
                size = min(before + 1, one.number - before)
                share = (before + (size + 1) / 2) / (one.number + 1)
                tokens = self.survival.tokens_outlived_by(share, key, one.mean_max_tokens)
                found.append(Group(size, tokens))
                before += size
            yield one, found

    def _all_fit(self, state: EngineState, remaining: list[int]) -> bool:
        """Whether all that waits could be prefilled now and stay resident to its end.

        And whether it should: the few longest of very unlike lengths, all started at once, run on
        without others to fill their batches.

        Args:
            remaining: tokens that each resident is expected to generate yet.
        """
        block_size, capacity = state.limits.block_size, state.limits.num_blocks
        used = (state.num_tokens_to_prefill + (block_size // 2) * len(state.waiting)) / block_size
        if len(state.waiting) > free_places(state) or used > state.pool.num_free:
            return False
        remaining = remaining + self.survival.remaining_of(state.waiting.values())
        # Asked first: it is quickly told, and the more often the reason.
        if self.sizing.tail_share(remaining, state.num_tokens_to_prefill) > MOST_TAIL:
            return False
        requests = [*state.resident.values(), *state.waiting.values()]
        timeline = KVTimeline(block_size, self.survival.remaining)
        timeline.rebuild(requests, remaining, max(remaining, default=1), SharedBlocks.of(state))
        return max(timeline.blocks) <= fill_share(len(requests)) * capacity

    # ---- decode

    def _next_lane(self, state: EngineState) -> tuple[list[Request], int]:
        """The oldest requests at hand, as many as take one P-th of all decodes' time.

        And the tokens of context that they read together.
        """
        while len(self._sent) > len(state.in_flight):
            self._sent.popleft()  # batches come back in the order they were sent
        at_hand = sorted(state.ready.values(), key=attrgetter("admission"))
        contexts = [0, *accumulate([request.num_scheduled for request in at_hand])]
        number = len(at_hand) + sum(decodes for decodes, _ in self._sent)
        context = contexts[-1] + sum(context for _, context in self._sent)
        stages = state.limits.num_stages
        fair = decode_load(-(-number // stages), -(-context // stages))
        times_s = [self.cost.stage_time_s(stage, fair) for stage in range(stages)]
        fair_s = max(times_s)
        slowest = times_s.index(fair_s)  # of loads that are nearly the same, too
        low, high = min(1, len(at_hand)), min(len(at_hand), state.limits.max_num_seqs)
        # Contexts are alike on average, so the answer is near a P-th of the number: look there
        # first, then halve what is left.
        guesses = [fair.decode_sequences + NEAR, fair.decode_sequences - NEAR]
        while low < high:
            middle = guesses.pop() if guesses else (low + high + 1) // 2
            if not low < middle <= high:
                continue
            # One more while the batch is below its share: rounded down, the newest would starve.
            load = decode_load(middle - 1, contexts[middle - 1])
            if self.cost.stage_time_s(slowest, load) < fair_s:
                low = middle
            else:
                high = middle - 1
        # Where one more costs nothing, as while the weights' read takes longer, numbers decide.
        share = min(fair.decode_sequences, len(at_hand), state.limits.max_num_seqs)
        if low < share:
            load = decode_load(share, contexts[share])
            low = share if self.cost.stage_time_s(slowest, load) <= fair_s else low
        return at_hand[:low], contexts[low]

    # ---- prefill

    def _chunks(self, state: EngineState, lane: list[Request]) -> tuple[PrefillChunk, ...]:
        """Prefill that fills the batch up: prompts already begun, then new ones that fit."""
        if not state.prefilling and (self._is_full or not state.waiting):
            return ()
        size = self.sizing.shrunk(self.size.tokens, len(lane), state.num_tokens_to_prefill)
        most = min(size, state.limits.max_num_batched_tokens)
        budget = max(most - len(lane), 0 if lane else 1)
        places = state.limits.max_num_seqs - len(lane)
        if budget <= 0 or places <= 0:
            return ()
        candidates = self._candidates(state)
        found = next(candidates, None)
        if found is None:
            return ()
        draft = PrefillDraft(state, free_beside(lane, state, budget))
        while found is not None:
            request, is_new = found
            left = draft.tokens_left(request)
            num_tokens = min(left, budget - draft.num_tokens, draft.room_tokens(request))
            if num_tokens <= 0:
                break
            if is_new:
                self._admit(request)
            draft.add(request, num_tokens)
            if num_tokens < left:
                break  # one unfinished prefill at a time, else unfinished ones lock up memory
            if budget <= draft.num_tokens or places <= len(draft.chunks):
                break
            found = next(candidates, None)
        return tuple(draft.chunks)

    def _candidates(self, state: EngineState) -> Iterator[tuple[Request, bool]]:
        """Prompts already begun, then new ones that fit beside those that were taken before."""
        for request in state.prefilling.values():
            yield request, False
        for num_taken in range(free_places(state)):
            new = self._next_new(state, len(state.resident) + num_taken)
            if new is None:
                return
            yield new, True

    def _next_new(self, state: EngineState, num_resident: int) -> Request | None:
        """The first request in order that the forecast has room for beside the residents."""
        assert self.timeline is not None
        if self._is_full:
            return None
        per_round = self.size.tokens * state.limits.num_stages
        fill = fill_share(num_resident)
        for request in self.order.heads(state):
            peak = self.timeline.peak_with(request, per_round)
            if not num_resident or peak <= fill * state.limits.num_blocks:
                return request
        self._is_full = True
        return None

    def _admit(self, request: Request) -> None:
        assert self.timeline is not None
        self.order.take(request)
        self.survival.follow(request)
        self.timeline.add(request)


def most_decodes(state: EngineState, output_tokens: int) -> float:
    """Decodes of a batch that the cache has room for, of requests like those that wait.

    On average half of what a request generates has been generated.
    """
    limits, waiting = state.limits, max(1, len(state.waiting))
    output = output_tokens / max(1, waiting + len(state.resident))
    blocks = (state.num_tokens_to_prefill / waiting + output / 2) / limits.block_size + 0.5
    return min(limits.max_num_seqs, limits.num_blocks / limits.num_stages / blocks)


def kv_token_rounds(
    residents: Iterable[Request],
    remaining: Iterable[int],
    waiting: Iterable[tuple[Sums, Iterable[Group]]],
) -> float:
    """Tokens that the cache will hold, summed over the rounds for which each request is there.

    Args:
        remaining: tokens that each resident is expected to generate yet.
        waiting: such as have about as long prompts, and how many will generate how much.
    """
    total = 0.0
    for request, tokens in zip(residents, remaining, strict=True):
        total += tokens * (request.num_tokens + tokens / 2)
    for one, groups in waiting:
        prompt = one.mean_prompt_tokens
        total += sum(group.number * group.tokens * (prompt + group.tokens / 2) for group in groups)
    return total


def fill_share(num_residents: int) -> float:
    """Share of the blocks that a forecast of so many residents may take."""
    return 1 - RESERVE / sqrt(num_residents + 1)


def hold_back(state: EngineState, lane: list[Request]) -> tuple[list[Request], tuple[int, ...]]:
    """The requests of the lane that can go on, and victims of preemption.

    While most of a lane finds blocks, the others just wait a round for what finishes: nothing is
    computed twice then. If most do not, requests are preempted.
    """
    free = state.pool.num_free
    if len(lane) <= free:
        return lane, ()
    stay: list[Request] = []
    for request in lane:
        needs_block = starts_block(request, state)
        if free or not needs_block:
            free -= needs_block
            stay.append(request)
    if 2 * len(stay) >= len(lane):
        return stay, ()
    ids, victims = make_room(state, lane)
    return [state.resident[request_id] for request_id in ids], victims


def free_beside(lane: list[Request], state: EngineState, num_tokens: int) -> int:
    """Blocks that prefills of so many tokens may take beside the next tokens of a lane.

    A token starts one block at most: who starts one is only counted where that may matter.
    """
    free = state.pool.num_free
    if free >= len(lane) + num_tokens:
        return free - len(lane)
    size = state.limits.block_size
    return free - sum([one.num_scheduled >= len(one.block_ids) * size for one in lane])


def starts_block(request: Request, state: EngineState) -> bool:
    """Whether the next token of a decoding request needs a new block."""
    return request.num_scheduled >= len(request.block_ids) * state.limits.block_size


def _explain(size: BatchSize, outlook: Outlook, state: EngineState) -> str:
    return (
        f"batches of {size.tokens} tokens ({size.limit} limit): {outlook.prompt_tokens} prompt and "
        f"{outlook.output_tokens} output tokens left, longest {_longest(outlook.resident)} "
        f"(waiting: {_longest(outlook.waiting)}), {outlook.decodes:.1f} decodes a batch, "
        f"{outlook.room:.0%} of the cache unplanned, {len(state.waiting)} waiting"
    )


def _longest(groups: Sequence[Group]) -> int:
    return round(groups[0].tokens) if groups else 0
