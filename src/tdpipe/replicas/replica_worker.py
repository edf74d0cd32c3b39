"""A replica process: a whole engine that takes jobs from the main process and sends results back.

Started as `python -m tdpipe.replicas.replica_worker FOLDER` (that of the sockets) with a
ReplicaSpec on standard input, which stays open as long as the main process lives: its end ends the
replica, and with it the replica's stages.
"""

import os
import signal
import sys
import traceback
from pathlib import Path

from tdpipe.core.errors import StageFailed, TdpipeError
from tdpipe.execution.failure_cause import cause_of_exception
from tdpipe.execution.life_line import first_message, hold_life_line
from tdpipe.replicas.job_text import error_text
from tdpipe.replicas.messages import Failed, ReplicaSpec, decode_spec
from tdpipe.replicas.replica_link import ReplicaLink


def main() -> None:
    """Run one replica until the main process says stop or goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    folder = Path(sys.argv[1])
    spec = decode_spec(first_message(sys.stdin.buffer, folder))
    hold_life_line(sys.stdin.buffer, folder)
    if spec.cores:
        # Before anything counts the cores; the stages are put on some of these.
        os.sched_setaffinity(0, spec.cores)
    _run(spec)


def _run(spec: ReplicaSpec) -> None:
    link = ReplicaLink(spec)
    status = 0
    try:
        # Imported here so that what an import raises reaches the main process as a message.
        from tdpipe.replicas.replica_session import ReplicaSession

        with ReplicaSession(spec, link) as session:
            session.serve()
    except TdpipeError as error:
        link.send(Failed(spec.replica, error_text(error)))
        status = 1
    except BaseException as error:
        failed = StageFailed(0, cause_of_exception(error), traceback.format_exc())
        link.send(Failed(spec.replica, error_text(failed)))
        status = 1
    link.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads that wait for messages are not waited for


if __name__ == "__main__":
    main()
