"""The phase machine of TD-Pipe, step by step over the fake executor."""

from factories import make_control, make_limits, make_new
from fakes import FakeExecutor
from tdpipe.control.arrivals import ScheduledArrivals
from tdpipe.control.engine_loop import drive
from tdpipe.control.plan_recorder import PlanRecorder
from tdpipe.core.batch_plan import Phase


def run(requests, **limits):
    recorder = PlanRecorder()
    control = make_control("td-pipe", make_limits(**limits), recorder=recorder)
    executor = FakeExecutor(control.limits.num_stages, control.limits.num_blocks, 16)
    for _ in drive(control, executor, ScheduledArrivals.all_at_once(requests)):
        pass
    return executor, recorder.lines, control


def test_one_switch_when_everything_fits():
    requests = [make_new(i, 100, 20) for i in range(12)]
    executor, lines, _ = run(requests, num_blocks=1000)
    phases = executor.phases
    assert phases[:6] == [Phase.PREFILL] * 6  # two prompts reach the saturation point
    assert set(phases[6:]) == {Phase.DECODE}
    assert "decode: 0 waiting" in lines[6]


def test_decode_lanes_are_equal_and_alternate():
    requests = [make_new(i, 100, 20) for i in range(12)]
    _, lines, _ = run(requests, num_blocks=1000)
    decodes = [line.split(" d:")[1].split(" #")[0].split() for line in lines if " d:" in line]
    assert decodes[0] == ["0", "1", "2", "3", "4", "5"]
    assert decodes[1] == ["6", "7", "8", "9", "10", "11"]
    assert decodes[2] == decodes[0]


def test_scarce_memory_switches_back_with_reasons():
    requests = [make_new(i, 100, 60) for i in range(12)]
    executor, lines, control = run(requests, num_blocks=40)
    switches = [line for line in lines if "# prefill:" in line]
    assert switches and all("spatial" in s or "nothing is resident" in s for s in switches)
    assert executor.phases[-1] is Phase.DECODE
    assert control.state.num_finished == 12


def test_repr_shows_phase_and_lanes():
    control = make_control("td-pipe")
    assert "phase=prefill" in repr(control.policy)
