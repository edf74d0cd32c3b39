"""The loop that drives an executor, real or simulated, with a control plane."""

from collections.abc import Iterator

from tdpipe.control.arrivals import Arrivals
from tdpipe.control.control_plane import ControlPlane, OutputEvent
from tdpipe.control.executor import Executor
from tdpipe.control.fault_recovery import FaultRecovery
from tdpipe.core.errors import StageFailed
from tdpipe.tracing.run_trace import RunTrace


def drive(
    control: ControlPlane,
    executor: Executor,
    arrivals: Arrivals,
    trace: RunTrace | None = None,
    recovery: FaultRecovery | None = None,
) -> Iterator[list[OutputEvent]]:
    """Run until all requests are done; yields the events of each round of results, none while idle.

    Results are applied and the next batches submitted before events are yielded, so that the
    stages work while the caller turns tokens into text.

    Raises:
        StageFailed: a stage failed, and there is no `recovery` or it gave up.
    """
    events: list[OutputEvent] = []
    while True:
        try:
            now_s = executor.now_s()
            control.add(arrivals.take(now_s), now_s)
            submit_all(control, executor, trace)
            if events or control.is_idle:
                yield events
                events = []
            next_s = arrivals.next_s(executor.now_s())
            if control.is_idle and next_s is None:
                return
            assert control.state.in_flight or next_s is not None, f"stuck: {control.policy!r}"
            for result in executor.wait(next_s):
                events.extend(control.complete(result))
        except StageFailed as failure:
            if recovery is None:
                raise
            events.extend(recovery.recover(failure))


def submit_all(control: ControlPlane, executor: Executor, trace: RunTrace | None) -> None:
    """Submit batches while the pipeline has room and the policy has work for it."""
    while executor.has_room():
        plan = control.next_plan(executor.now_s())
        if plan is None:
            return
        if trace is not None:
            trace.submitted(plan, executor.now_s(), control.state)
        executor.submit(plan)
