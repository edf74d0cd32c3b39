"""A stage process: takes plans from the engine, hidden states from the stage before, hands on.

Started as `python -m tdpipe.execution.stage_worker` with a StageSpec on standard input, which
stays open as long as the engine lives: its end ends the stage.
"""

import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import BinaryIO

from tdpipe.execution.wire import Failed, StageSpec, decode_spec, encode


def main() -> None:
    """Run one stage until the engine says stop or goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the engine's to handle
    size = int.from_bytes(sys.stdin.buffer.read(4), "little")
    spec = decode_spec(sys.stdin.buffer.read(size))
    watcher = threading.Thread(target=_end_with_engine, args=(sys.stdin.buffer,), daemon=True)
    watcher.start()
    if spec.cores:
        os.sched_setaffinity(0, spec.cores)
    # The thread count must be in the environment before torch and numpy are imported.
    os.environ["OMP_NUM_THREADS"] = str(max(1, len(spec.cores)))
    if spec.device == "cpu":
        # oneDNN keeps compiled code for each number of rows that it has multiplied, 0.3 MiB and
        # more each. A batch uses five; the default of a thousand saves no time.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
        os.environ.setdefault("LRU_CACHE_CAPACITY", "64")  # torch's own, of the same
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback_interface())
    _run(spec)


def _run(spec: StageSpec) -> None:
    import zmq

    context = zmq.Context()
    to_engine = context.socket(zmq.PUSH)
    to_engine.connect(spec.engine_address)
    from_engine = context.socket(zmq.PULL)
    from_engine.connect(spec.stage_address)
    try:
        # Imported here so that an import error of torch reaches the engine as a message.
        from tdpipe.execution.stage_session import StageSession

        StageSession(spec, from_engine, to_engine).run()
    except BaseException as error:
        cause = f"{type(error).__name__}: {error}"
        to_engine.send(encode(Failed(spec.stage, cause, traceback.format_exc())))
        context.destroy(linger=2000)
        _leave(1)
    context.destroy(linger=2000)
    _leave(0)


def _leave(status: int) -> None:
    # Without interpreter teardown: a process group whose peer is gone may block there.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _end_with_engine(stdin: BinaryIO) -> None:
    stdin.read()
    os._exit(2)


def loopback_interface() -> str:
    """The name of the interface that reaches only this machine."""
    names = sorted(path.name for path in Path("/sys/class/net").glob("lo*"))
    return names[0] if names else "lo"


if __name__ == "__main__":
    main()
