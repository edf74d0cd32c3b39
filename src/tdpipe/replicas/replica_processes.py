"""Starts the replica processes, talks to them, notices when one is gone, and ends them.

When the main process dies, even by kill -9, the replicas leave, and their stages with them.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil
import zmq

from tdpipe.core.errors import ReplicaFailed
from tdpipe.execution.child_process import Child, cut_life_line, start_child, wait_all
from tdpipe.execution.failure_cause import cause_of_end
from tdpipe.replicas.job_text import error_text
from tdpipe.replicas.messages import (
    Failed,
    FromReplica,
    ReplicaSpec,
    Said,
    Stop,
    ToReplica,
    decode_from_replica,
    encode,
)

log = logging.getLogger("tdpipe")

# How often the processes are looked at, and how long one may be stopped (SIGSTOP).
LOOK_S = 0.25
STOPPED_LIMIT_S = 4.0
# What a process has sent may be read a moment after its end.
LAST_WORDS_S = 0.3
# A process that has spoken is connected in the other direction too, or will be in a moment.
CONNECT_LIMIT_MS = 1000
# An engine needs so long to end stages that hang; then less, and less.
CLOSE_LIMITS_S = (8.0, 2.0, 30.0)


class ReplicaProcesses:
    """The processes of a pool and the sockets to them.

    Args:
        specs: their specifications, given the folder of the sockets.
        environments: what is added to the environment of each.

    `living` are the replicas that have not failed; a `Failed` message comes once from each that
    has, also where its process ended without a word.
    """

    def __init__(
        self,
        specs: Callable[[Path], list[ReplicaSpec]],
        environments: Sequence[Mapping[str, str]],
    ) -> None:
        # Mode 0700: the sockets in it are nobody else's.
        self._temporary = tempfile.TemporaryDirectory(prefix="tdpipe-", ignore_cleanup_errors=True)
        self._folder = Path(self._temporary.name)
        self._context = zmq.Context()
        self._processes: list[Child] = []
        self._ended_s: dict[int, float] = {}
        self._stopped_s: dict[int, float] = {}
        self._looked_s = 0.0
        self._is_closed = False
        self._from_replicas = self._bind(zmq.PULL, "pool")
        self._to_replicas = [self._bind(zmq.PUSH, f"replica{i}") for i in range(len(environments))]
        self.living = set(range(len(environments)))
        try:
            for spec, environment in zip(specs(self._folder), environments, strict=True):
                process = start_child(
                    "tdpipe.replicas.replica_worker", self._folder, encode(spec), environment
                )
                self._processes.append(process)
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        """Process ids of all replicas, those that have ended too."""
        return [process.pid for process in self._processes]

    def remove_folder(self) -> None:
        """Leave nothing behind, however this ends; once all are connected nobody needs it."""
        self._temporary.cleanup()

    def send(self, replica: int, message: ToReplica) -> None:
        """Send a message. Nothing is sent to a replica that has failed."""
        if replica not in self.living:
            return
        socket, data = self._to_replicas[replica], encode(message)
        try:
            socket.send(data, zmq.NOBLOCK)
        except zmq.Again:  # not connected yet, or no longer: that it is gone shows in `receive`
            is_there = self._processes[replica].poll() is None
            if is_there and socket.poll(CONNECT_LIMIT_MS, zmq.POLLOUT):
                socket.send(data, zmq.NOBLOCK)

    def broadcast(self, message: ToReplica) -> None:
        """Send to all that live."""
        for replica in sorted(self.living):
            self.send(replica, message)

    def receive(self, limit_s: float) -> FromReplica | None:
        """The next message of a living replica, or None after limit_s, perhaps before."""
        lost = self._look()  # first: messages of the others may leave no moment without one
        if lost is not None or not self._from_replicas.poll(round(limit_s * 1000)):
            return lost
        message: FromReplica = decode_from_replica(self._from_replicas.recv())
        if message.replica not in self.living:
            return None
        if isinstance(message, Said):
            log.warning("replica %d: %s", message.replica, message.text)
            return None
        if isinstance(message, Failed):
            self.living.discard(message.replica)
        return message

    def close(self) -> None:
        """End all replicas; none is left when this returns. May be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        if len(self._processes) == len(self._to_replicas):
            self.broadcast(Stop())
        ways = (None, cut_life_line, Child.kill)
        for insist, limit_s in zip(ways, CLOSE_LIMITS_S, strict=True):
            left = [process for process in self._processes if process.poll() is None]
            for process in left:
                if insist is not None:
                    insist(process)
            wait_all(left, limit_s)
        for process in self._processes:
            cut_life_line(process)
        self.living.clear()
        self.remove_folder()
        for socket in (self._from_replicas, *self._to_replicas):
            socket.close(linger=0)
        self._context.term()

    # ---- details

    def _bind(self, kind: int, name: str) -> "zmq.Socket[bytes]":
        socket = self._context.socket(kind)
        socket.set_hwm(0)  # what waits is bounded by the windows
        socket.bind(f"ipc://{self._folder / name}")
        return socket

    def _look(self) -> Failed | None:
        """Word of a process that has ended, or that is stopped for good and is killed for it."""
        now_s = time.monotonic()
        if now_s - self._looked_s < LOOK_S:
            return None
        self._looked_s = now_s
        for replica in sorted(self.living):
            process = self._processes[replica]
            status = process.poll()
            if status is None:
                self._watch_for_stop(replica, now_s)
            elif now_s - self._ended_s.setdefault(replica, now_s) >= LAST_WORDS_S:
                self.living.discard(replica)
                failure = ReplicaFailed(replica, cause_of_end(status))
                return Failed(replica, error_text(failure))
        return None

    def _watch_for_stop(self, replica: int, now_s: float) -> None:
        process = self._processes[replica]
        if not _is_stopped(process.pid):
            self._stopped_s.pop(replica, None)
        elif now_s - self._stopped_s.setdefault(replica, now_s) >= STOPPED_LIMIT_S:
            process.kill()


def _is_stopped(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.Error:  # it has just ended
        return False
