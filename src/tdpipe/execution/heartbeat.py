"""A stage's heartbeat: a thread that tells the engine once a second that the process runs."""

import threading

import zmq

from tdpipe.execution.control_socket import connect
from tdpipe.execution.wire import Alive, StageSpec, encode

INTERVAL_S = 1.0
# Heartbeats that may wait for an engine that does not look; more would say nothing new.
MOST_WAITING = 4


class Heartbeat:
    """Beats from now on until `stop`, on a socket of its own: zmq sockets are for one thread."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", spec: StageSpec) -> None:
        self._socket = connect(context, zmq.PUSH, spec.engine_address, spec.keys, MOST_WAITING)
        self._message = encode(Alive(spec.rank))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close its socket."""
        self._stopped.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stopped.wait(INTERVAL_S):
            if self._socket.poll(0, zmq.POLLOUT):
                self._socket.send(self._message, zmq.NOBLOCK)
        self._socket.close(linger=0)
