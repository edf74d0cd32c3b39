"""A stage process: takes plans from the engine, hidden states from the stage before, hands on.

Started as `python -m tdpipe.execution.stage_worker FOLDER` (that of the sockets) with a StageSpec
on standard input, which stays open as long as the engine lives: its end ends the stage.
"""

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from tdpipe.core.errors import FaultKind
from tdpipe.execution.failure_cause import cause_of_exception
from tdpipe.execution.life_line import first_message, hold_life_line
from tdpipe.execution.wire import Failed, StageSpec, decode_spec, encode

if TYPE_CHECKING:
    from tdpipe.execution.stage_session import StageSession


def main() -> None:
    """Run one stage until the engine says stop or goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the engine's to handle
    folder = Path(sys.argv[1])
    spec = decode_spec(first_message(sys.stdin.buffer, folder))
    hold_life_line(sys.stdin.buffer, folder)
    if spec.cores:
        os.sched_setaffinity(0, spec.cores)
    # The thread count must be in the environment before torch and numpy are imported.
    os.environ["OMP_NUM_THREADS"] = str(spec.threads)
    if spec.device == "cpu":
        # oneDNN keeps compiled code for each number of rows that it has multiplied, 0.3 MiB and
        # more each. A batch uses five; the default of a thousand saves no time.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
        os.environ.setdefault("LRU_CACHE_CAPACITY", "64")  # torch's own, of the same
    interface = spec.interface or loopback_interface()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    if spec.interface:
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
    _run(spec)


def _run(spec: StageSpec) -> None:
    import zmq

    from tdpipe.execution.control_socket import connect
    from tdpipe.execution.heartbeat import Heartbeat

    context = zmq.Context()
    to_engine = connect(context, zmq.PUSH, spec.engine_address, spec.keys)
    from_engine = connect(context, zmq.PULL, spec.stage_address, spec.keys)
    heartbeat = Heartbeat(context, spec)
    session: StageSession | None = None
    status = 0
    try:
        # Imported here so that an import error of torch reaches the engine as a message.
        from tdpipe.execution import stage_session

        session = stage_session.StageSession(spec, from_engine, to_engine)
        session.run()
    except BaseException as error:
        to_engine.send(encode(_failed(spec, error, session)))
        status = 1
    heartbeat.stop()
    context.destroy(linger=2000)
    _leave(status)


def _failed(spec: StageSpec, error: BaseException, session: "StageSession | None") -> Failed:
    return Failed(
        rank=spec.rank,
        kind=FaultKind.CUT_OFF if isinstance(error, ConnectionError) else FaultKind.RAISED,
        cause=cause_of_exception(error),
        traceback=traceback.format_exc(),
        batch_id=session.batch_id if session is not None else None,
    )


def _leave(status: int) -> None:
    # Without interpreter teardown: a process group whose peer is gone may block there.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def loopback_interface() -> str:
    """The name of the interface that reaches only this machine."""
    names = sorted(path.name for path in Path("/sys/class/net").glob("lo*"))
    return names[0] if names else "lo"


if __name__ == "__main__":
    main()
