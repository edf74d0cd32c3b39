"""The centralized engine's bookkeeping: the only writer of EngineState.

Takes requests in, turns a policy's choices into batch plans (holding blocks, marking requests in
flight), applies results. Knows no clock, device or text.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tdpipe.control.length_forecasts import LengthForecasts
from tdpipe.control.plan_recorder import PlanRecorder
from tdpipe.control.request_check import check_request
from tdpipe.control.stop_condition import StopCondition
from tdpipe.control.suspect_trials import SuspectTrials
from tdpipe.core.batch_plan import BatchPlan, BatchResult, Sample, SequenceSlice, SequenceStart
from tdpipe.core.block_pool import BlockPool
from tdpipe.core.engine_state import EngineState
from tdpipe.core.errors import TdpipeError
from tdpipe.core.limits import Limits
from tdpipe.core.request import FinishReason, Request
from tdpipe.core.sampling_params import SamplingParams
from tdpipe.policies.policy import Choice, Policy, PrefillChunk
from tdpipe.prediction.length_predictor import LengthForecast, LengthPredictor


@dataclass(frozen=True, slots=True)
class NewRequest:
    """A request as the front end hands it in; `eos_token_ids` are the model's own.

    `forecast` is its output length where the front end knows it or has predicted it already.
    """

    request_id: int
    prompt_token_ids: tuple[int, ...]
    params: SamplingParams
    seed: int = 0
    eos_token_ids: tuple[int, ...] = ()
    forecast: LengthForecast | None = None


class OutputEvent(NamedTuple):
    """One token of one request (None for an abort), perhaps its last.

    `error` says why a request was given up; its finish reason is then abort. `cached_tokens` of its
    prompt were there before, computed for another request.
    """

    request_id: int
    sample: Sample | None
    finish_reason: FinishReason | None
    error: TdpipeError | None = None
    cached_tokens: int = 0


class ControlPlane:
    """Schedules requests over one pipeline with one policy.

    Args:
        prefix_caching: compute what prompts have in common once. Not where token ids are made up.
    """

    def __init__(
        self,
        limits: Limits,
        policy: Policy,
        predictor: LengthPredictor,
        stop_condition: StopCondition | None = None,
        recorder: PlanRecorder | None = None,
        prefix_caching: bool = False,
    ) -> None:
        self.limits = limits
        self.policy = policy
        self.forecasts = LengthForecasts(predictor)
        self.stop_condition = stop_condition
        self.recorder = recorder
        self.state = EngineState(limits, BlockPool(limits.num_blocks))
        self.trials = SuspectTrials()
        self.num_completed_batches = 0
        self._prefix_caching = prefix_caching
        self._released: list[int] = []
        self._next_batch_id = 0
        self._num_admissions = 0

    # ---- requests in and out

    def add(self, requests: Iterable[NewRequest], now_s: float = 0.0) -> None:
        """Queue requests, asking the predictor once for all of them.

        Raises:
            RequestRejected: a request is empty or beyond the limits (see `check_request`); none
                of the given requests is queued then.
        """
        new = list(requests)
        accepted = [self._accept(request, now_s) for request in new]
        self.forecasts.expect(accepted, [request.forecast for request in new])
        for request in accepted:
            # The penalty knows every prompt token, and the last stage only those it is sent.
            if self._prefix_caching and request.params.repetition_penalty == 1.0:
                self.state.prefixes.add(request)
        for request in self.state.prefixes.grouped(accepted):
            self._queue(request)

    def abort(self, request_id: int) -> OutputEvent | None:
        """End a request now, or when its batch comes back; the event if it ended now."""
        request = self.state.resident.get(request_id)
        if request is None:
            if request_id not in self.state.waiting:
                return None
            request = self._leave_queue(request_id)
        elif request.num_in_flight:
            request.aborted = True
            return None
        self._finish(request, FinishReason.ABORT)
        return OutputEvent(request_id, None, FinishReason.ABORT)

    def withdraw_waiting(self) -> None:
        """Forget the requests that wait, without an event: those that hold blocks go on alone."""
        for request_id in list(self.state.waiting):
            request = self._leave_queue(request_id)
            request.finish_reason = FinishReason.ABORT
            self.state.prefixes.remove(request)
            self.forecasts.ended(request)

    @property
    def is_idle(self) -> bool:
        return not self.state.waiting and not self.state.resident

    # ---- decide

    def next_plan(self, now_s: float) -> BatchPlan | None:
        """Ask the policy for a batch and commit to it: blocks held, requests in flight."""
        choice = self._trial() if self.trials else None
        if choice is None and not self.trials:
            choice = self.policy.plan(self.state, now_s)
        if choice is None:
            return None
        for request_id in choice.preempted:
            self._preempt(self.state.resident[request_id])
        plan = self._commit(choice)
        self.state.in_flight[plan.batch_id] = plan
        if self.recorder is not None:
            self.recorder.record(plan, choice)
        return plan

    # ---- apply

    def complete(self, result: BatchResult) -> list[OutputEvent]:
        """Append the sampled tokens of a batch, end requests, free their blocks."""
        plan = self.state.in_flight.pop(result.batch_id)
        self.num_completed_batches += 1
        events = [self._append(sample) for sample in result.samples]
        for piece in plan.slices:
            request = self.state.resident.get(piece.request_id)
            if request is None:
                continue  # ended by its sample just now
            request.num_in_flight -= 1
            if request.num_in_flight == 0:
                if request.aborted:
                    self._finish(request, FinishReason.ABORT)
                    events.append(OutputEvent(request.request_id, None, FinishReason.ABORT))
                elif not request.is_prefilling:
                    self.state.ready[request.request_id] = request
        self.forecasts.revise(self.state)
        return events

    # ---- after a fault

    def recover(self, policy: Policy, suspects: Sequence[int] = ()) -> list[OutputEvent]:
        """Begin again with stages that remember nothing.

        Every resident goes back to the front of the queue with the tokens it has, as after a
        preemption; what was on its way is lost.

        Args:
            policy: a new one: the old one's own state is about batches that are no more.
            suspects: requests to try alone before the policy goes on with all.

        Returns:
            the ends of requests that were to be aborted when their batch came back.
        """
        events: list[OutputEvent] = []
        self.state.in_flight.clear()
        residents = self.state.resident.values()
        for request in sorted(residents, key=lambda one: one.admission, reverse=True):
            request.num_in_flight = 0
            if request.aborted:
                self._finish(request, FinishReason.ABORT)
                events.append(OutputEvent(request.request_id, None, FinishReason.ABORT))
            else:
                self._put_back(request)
        self.state.prefixes.clear()
        self._released.clear()
        self.policy = policy
        self.trials = SuspectTrials(suspects)
        return events

    def _trial(self) -> Choice | None:
        """The next batch of the suspect on trial; who has passed goes back to the queue."""
        if self.state.in_flight:
            return None
        passed = self.trials.passed(self.state)
        if passed is not None:
            self._put_back(passed)
        return self.trials.choice(self.state)

    def check(self) -> None:
        """Assert that blocks and requests agree; for tests and idle moments."""
        tables = {r.request_id: r.block_ids for r in self.state.resident.values()}
        self.state.pool.check(tables)
        waiting = self.state.waiting.values()
        assert not any(request.block_ids for request in waiting)
        assert self.state.num_waiting_tokens == sum(request.num_tokens for request in waiting)
        self.state.prefixes.check(waiting, self.state.resident.values())
        residents = self.state.resident.items()
        assert self.state.ready.keys() == {key for key, one in residents if one.is_decodable}
        assert self.state.prefilling.keys() == {key for key, one in residents if one.is_prefilling}

    # ---- details

    def _accept(self, new: NewRequest, now_s: float) -> Request:
        params = new.params
        max_tokens = check_request(len(new.prompt_token_ids), params, self.limits)
        eos = () if params.ignore_eos else new.eos_token_ids
        return Request(
            request_id=new.request_id,
            prompt_token_ids=new.prompt_token_ids,
            params=params,
            max_tokens=max_tokens,
            seed=new.seed,
            end_token_ids=tuple(sorted({*eos, *params.stop_token_ids})),
            arrival_s=now_s,
        )

    def _commit(self, choice: Choice) -> BatchPlan:
        slices: list[SequenceSlice] = []
        # First all admissions: none may lose its cached blocks to another's new ones.
        new = [one.request_id for one in choice.prefills if one.request_id in self.state.waiting]
        admitted = {request_id: self._admit(request_id) for request_id in new}
        for chunk in choice.prefills:
            slices.append(self._prefill_slice(chunk, chunk.request_id in admitted))
        for request_id in choice.decodes:
            slices.append(self._decode_slice(self.state.ready.pop(request_id)))
        assert slices, choice
        assert len(slices) <= self.limits.max_num_seqs, len(slices)
        plan = BatchPlan(
            batch_id=self._next_batch_id,
            phase=choice.phase,
            num_prefills=len(choice.prefills),
            slices=tuple(slices),
            starts=tuple(map(_start_of, admitted.values())),
            released=tuple(self._released),
            reason=choice.reason,
        )
        self._next_batch_id += 1
        self._released.clear()
        return plan

    def _admit(self, request_id: int) -> Request:
        request = self._leave_queue(request_id)
        request.prefill_target = request.num_tokens
        request.admission = self._num_admissions
        self._num_admissions += 1
        self.state.resident[request_id] = self.state.prefilling[request_id] = request
        self.state.prefixes.join(request)
        return request

    def _queue(self, request: Request, front: bool = False) -> None:
        self.state.waiting[request.request_id] = request
        if front:
            self.state.waiting.move_to_end(request.request_id, last=False)
        self.state.num_waiting_tokens += request.num_tokens
        self.state.prefixes.waits(request, 1)

    def _leave_queue(self, request_id: int) -> Request:
        request = self.state.waiting.pop(request_id)
        self.state.num_waiting_tokens -= request.num_tokens
        self.state.prefixes.waits(request, -1)
        return request

    def _prefill_slice(self, chunk: PrefillChunk, is_first: bool) -> SequenceSlice:
        request = self.state.resident[chunk.request_id]
        num_known = len(request.block_ids)
        if is_first:
            num_known = 0
            self.state.prefixes.join(request)  # also what slices before this one compute
            if not request.num_preemptions:
                request.num_cached_tokens = request.num_scheduled
        if request.num_preemptions:
            self.state.num_recomputed_tokens += chunk.num_tokens
        start, stop = request.num_scheduled, request.num_scheduled + chunk.num_tokens
        assert chunk.start == start < stop <= request.num_tokens, (chunk, request)
        count = max(0, self.state.blocks_needed(request, chunk.num_tokens))
        request.block_ids += self.state.pool.hold(request.request_id, count, request.block_ids)
        request.num_scheduled = stop
        request.num_in_flight += 1
        self.state.prefixes.offer(request)
        if not request.is_prefilling:
            del self.state.prefilling[request.request_id]
        return SequenceSlice(
            request_id=request.request_id,
            start=start,
            token_ids=request.tokens_between(start, stop),
            new_block_ids=tuple(request.block_ids[num_known:]),
            samples=stop == request.num_tokens,
        )

    def _decode_slice(self, request: Request) -> SequenceSlice:
        """The slice of one decode: what `_slice` does, with the checks of a prefill left out."""
        start = request.num_scheduled
        block_ids: tuple[int, ...] = ()
        if start == len(request.block_ids) * self.limits.block_size:
            block_ids = self.state.pool.hold(request.request_id, 1, request.block_ids)
            request.block_ids.extend(block_ids)
        request.num_scheduled = start + 1
        request.num_in_flight = 1
        return SequenceSlice(
            request.request_id, start, (request.output_token_ids[-1],), block_ids, True
        )

    def _preempt(self, request: Request) -> None:
        self._put_back(request)
        self.state.num_preemptions += 1

    def _put_back(self, request: Request) -> None:
        """From resident to the front of the queue, without blocks."""
        assert request.num_in_flight == 0, request
        self._release(request)
        request.num_scheduled = 0
        request.prefill_target = 0
        request.num_preemptions += 1
        self._queue(request, front=True)

    def _append(self, sample: Sample) -> OutputEvent:
        request = self.state.resident[sample.request_id]
        request.output_token_ids.append(sample.token_id)
        if sample.forecast_tokens is not None:
            self.forecasts.update(request, sample.forecast_tokens)
        reason = self._finish_reason(request)
        if reason is not None:
            self._finish(request, reason)
        cached = request.num_cached_tokens
        return OutputEvent(sample.request_id, sample, reason, cached_tokens=cached)

    def _finish_reason(self, request: Request) -> FinishReason | None:
        num_output = len(request.output_token_ids)
        ended = request.output_token_ids[-1] in request.end_token_ids
        if request.params.stop and self.stop_condition is not None:
            # Asked for every token, also before min_tokens: it follows the text as it grows.
            ended = self.stop_condition.finished(request) or ended
        if ended and num_output >= request.params.min_tokens:
            return FinishReason.STOP
        if num_output >= request.max_tokens:
            return FinishReason.LENGTH
        return None

    def _finish(self, request: Request, reason: FinishReason) -> None:
        request.finish_reason = reason
        if request.request_id in self.state.resident:
            self._release(request)
        self.state.prefixes.remove(request)
        self.state.num_finished += 1
        self.forecasts.ended(request)

    def _release(self, request: Request) -> None:
        del self.state.resident[request.request_id]
        self.state.ready.pop(request.request_id, None)
        self.state.prefilling.pop(request.request_id, None)
        self.state.pool.give_back(request.request_id, request.block_ids)
        request.block_ids.clear()
        request.num_shared_blocks = 0
        self._released.append(request.request_id)


def _start_of(one: Request) -> SequenceStart:
    num_prompt = len(one.prompt_token_ids)
    return SequenceStart(one.request_id, num_prompt, one.params, one.seed, one.end_token_ids)
