"""A replica's sockets to the main process."""

import threading

import zmq

from tdpipe.replicas.messages import (
    FromReplica,
    ReplicaSpec,
    ToReplica,
    decode_to_replica,
    encode,
)

LAST_WORDS_MS = 2000


class ReplicaLink:
    """Sends from any thread, receives on one."""

    def __init__(self, spec: ReplicaSpec) -> None:
        self._context = zmq.Context()
        # No limit on what waits here: it is as much as the window lets be outstanding.
        self._to_pool = self._context.socket(zmq.PUSH)
        self._to_pool.set_hwm(0)
        self._to_pool.connect(spec.pool_address)
        self._from_pool = self._context.socket(zmq.PULL)
        self._from_pool.set_hwm(0)
        self._from_pool.connect(spec.replica_address)
        self._lock = threading.Lock()

    def send(self, message: FromReplica) -> None:
        """Send a message; never blocks."""
        data = encode(message)
        with self._lock:
            self._to_pool.send(data)

    def receive(self) -> ToReplica:
        """The next message, waited for."""
        message: ToReplica = decode_to_replica(self._from_pool.recv())
        return message

    def close(self) -> None:
        """Let the last messages out; the other socket, perhaps in use, ends with the process."""
        with self._lock:
            self._to_pool.close(linger=LAST_WORDS_MS)
