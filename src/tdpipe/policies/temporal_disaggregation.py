"""TD-Pipe: the whole pipeline is in one phase at a time (paper 3).

    PREFILL --(nothing waits, or the memory forecast is full)--> DECODE
    DECODE  --(once a round: spatial < temporal intensity)-----> PREFILL

In between, the live requests travel in P lanes that work stealing keeps equal. The four parts are
in greedy_prefill and kv_forecast, work_stealing, intensity; this file is the phase machine.
"""

from tdpipe.core.batch_plan import Phase
from tdpipe.core.engine_state import EngineState
from tdpipe.core.lanes import Lanes, deal, keep_only
from tdpipe.cost.cost_model import CostModel
from tdpipe.policies.greedy_prefill import GreedyPrefill, PrefillRule
from tdpipe.policies.kv_forecast import KVForecast
from tdpipe.policies.phase_switch import IntensitySwitch, PhaseSwitch
from tdpipe.policies.policy import Choice
from tdpipe.policies.preemption import make_room
from tdpipe.policies.work_stealing import Balance, steal


class TemporalDisaggregation:
    """The paper's scheduler with its parameters as defaults.

    Args:
        cost: for the intensity comparison.
        prefill_rule, balance, switch: what decides how far to prefill, how decode batches stay
            equal, and when to stop decoding; others than the defaults are for ablations.
    """

    def __init__(
        self,
        cost: CostModel,
        prefill_rule: PrefillRule | None = None,
        balance: Balance = steal,
        switch: PhaseSwitch | None = None,
    ) -> None:
        self.prefill_rule = prefill_rule or GreedyPrefill()
        self.balance = balance
        self.switch = switch or IntensitySwitch(cost)
        self.phase = Phase.PREFILL
        self.lanes = Lanes()
        self.next_lane = 0
        self._forecast: KVForecast | None = None
        self._reason = "start"

    def __repr__(self) -> str:
        return f"TemporalDisaggregation(phase={self.phase}, {self.lanes}, next={self.next_lane})"

    def plan(self, state: EngineState, now_s: float) -> Choice | None:
        if self.phase is Phase.DECODE and self._should_prefill(state):
            self.phase = Phase.PREFILL
            self._forecast = None
        if self.phase is Phase.PREFILL:
            choice = self._plan_prefill(state)
            if choice is not None or not state.resident:
                return choice
            self._begin_decode(state)
        return self._plan_decode(state)

    # ---- prefill phase

    def _plan_prefill(self, state: EngineState) -> Choice | None:
        if self._forecast is None:
            self._forecast = self.prefill_rule.forecast(state)
        batch = self.prefill_rule.next_batch(state, self._forecast)
        if not batch:
            return None
        return Choice(prefills=tuple(batch), reason=self._take_reason())

    # ---- decode phase

    def _begin_decode(self, state: EngineState) -> None:
        forecast = self._forecast.peak_blocks() if self._forecast else 0
        self._reason = (
            f"decode: {len(state.waiting)} waiting, forecast peak {forecast:.0f} of "
            f"{state.limits.num_blocks} blocks, {state.pool.num_free} free"
        )
        self.phase = Phase.DECODE
        self.lanes = deal(list(state.resident), state.limits.num_stages)
        self.next_lane = 0
        self.switch.begin(state)

    def _plan_decode(self, state: EngineState) -> Choice | None:
        """The next lane in turn; None while it, or every live request, is still on its way."""
        for _ in range(len(self.lanes.batches)):
            index = self.next_lane
            lane = self.lanes.batches[index]
            if any(not state.resident[i].is_decodable for i in lane if i in state.resident):
                return None
            decodes, victims = self._rebalance(state, index)
            self.next_lane = (index + 1) % len(self.lanes.batches)
            if decodes:
                return Choice(decodes=decodes, preempted=victims, reason=self._take_reason())
        return None

    def _rebalance(self, state: EngineState, index: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Drop the lane's finished requests, steal, and make room: (decodes, victims)."""
        lanes = self.lanes
        lane = keep_only(lanes.batches[index], state.resident)
        lanes.withheld = keep_only(lanes.withheld, state.resident)
        shares = self.balance(lane, lanes.withheld, [len(batch) for batch in lanes.batches], index)
        lanes.batches[index] = list(shares.lane)
        lanes.withheld = list(shares.withheld)
        return make_room(state, [state.resident[request_id] for request_id in shares.lane])

    # ---- decode -> prefill

    def _should_prefill(self, state: EngineState) -> bool:
        """Checked at the start of a round, while requests wait (paper 3.5)."""
        if not state.waiting:
            return False
        if not state.resident:
            self._reason = "prefill: nothing is resident"
            return True
        if self.next_lane != 0:
            return False
        batches = self.prefill_rule.would_admit(state)
        if not batches:
            return False
        verdict = self.switch.reason(state, batches)
        if verdict:
            admitted = sum(map(len, batches))
            self._reason = f"prefill: {verdict}, {admitted} of {len(state.waiting)} waiting fit"
        return bool(verdict)

    def _take_reason(self) -> str:
        reason, self._reason = self._reason, ""
        return reason
