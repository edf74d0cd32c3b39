"""One start of the stage processes: their folder, sockets and messages. A restart makes a new one.

Nothing of an earlier start can come through: it had other sockets, in another folder.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import zmq

from tdpipe.core.errors import FaultKind, StageFailed
from tdpipe.execution.stage_launcher import StageProcesses
from tdpipe.execution.stage_watch import Vitals
from tdpipe.execution.wire import (
    Failed,
    FromStage,
    StageSpec,
    Stop,
    ToStage,
    decode_from_stage,
    encode,
)

# After the first sign of a fault others may tell more of it: a neighbour's broken link comes
# before the end of the process that broke it, and that before its last words.
LAST_WORDS_S = 0.2
BROKEN_LINK_S = 1.0
FAULTS_BY_WORTH = list(FaultKind)


class StageConnection:
    """Stage processes and the sockets to them.

    Args:
        num_ranks: how many; their sockets are bound before the processes start.
        specs: their specifications in order of ranks, given the folder of the sockets.

    `late` are the messages that came while a fault was looked into, in order.
    """

    def __init__(self, num_ranks: int, specs: Callable[[Path], list[StageSpec]]) -> None:
        # Mode 0700: the sockets in it are nobody else's.
        self._temporary = tempfile.TemporaryDirectory(prefix="tdpipe-", ignore_cleanup_errors=True)
        self._folder = Path(self._temporary.name)
        self._context = zmq.Context()
        self._is_closed = False
        self.late: list[FromStage] = []
        try:
            self._from_stages = self._bind(zmq.PULL, "engine")
            self._to_stages = [self._bind(zmq.PUSH, f"rank{i}") for i in range(num_ranks)]
            self._specs = specs(self._folder)
            self._processes = StageProcesses(self._specs, self._folder)
        except BaseException:
            self._context.destroy(linger=0)
            self._temporary.cleanup()
            raise

    @property
    def pids(self) -> list[int]:
        return self._processes.pids

    def remove_folder(self) -> None:
        """Leave nothing behind, however the engine ends; once all are connected nobody needs it."""
        self._temporary.cleanup()

    def vitals(self) -> list[Vitals]:
        """What the system says of each stage's process."""
        return self._processes.vitals()

    # ---- messages

    def broadcast(self, message: ToStage) -> None:
        """Send to all stages; never blocks. Raises StageFailed when one takes nothing more."""
        data = encode(message)
        for socket in self._to_stages:
            try:
                socket.send(data, zmq.NOBLOCK)
            except zmq.Again:
                # A stage that is gone takes nothing; one that just hangs shows later.
                self.check()

    def receive(self, limit_s: float) -> FromStage | None:
        """The next message, or None after limit_s. Raises StageFailed for what a stage reports."""
        if not self._from_stages.poll(round(limit_s * 1000)):
            return None
        message: FromStage = decode_from_stage(self._from_stages.recv())
        if isinstance(message, Failed):
            raise self._explained([self._failure(message)])
        return message

    def has_message(self) -> bool:
        """Whether a message waits to be received."""
        return bool(self._from_stages.poll(0))

    def check(self) -> None:
        """Raises StageFailed when a stage has ended."""
        ended = self._processes.ended()
        if ended:
            raise self._explained(ended)

    def close(self, at_once: bool = False) -> None:
        """End all stages, by asking them or `at_once`; may be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        self.remove_folder()  # first: told to stop, stages no longer do it
        if at_once:
            self._processes.kill()
        else:
            with contextlib.suppress(StageFailed):
                self.broadcast(Stop())
            self._processes.end()
        # One by one: when the interpreter shuts down the context has lost track of its sockets,
        # and would wait for ever for those that are open.
        for socket in (self._from_stages, *self._to_stages):
            socket.close(linger=0)
        self._context.term()

    # ---- details

    def _bind(self, kind: int, name: str) -> "zmq.Socket[bytes]":
        socket = self._context.socket(kind)
        socket.bind(f"ipc://{self._folder / name}")
        return socket

    def _explained(self, found: list[StageFailed]) -> StageFailed:
        """Of all signs of a fault that come in a moment, the one that tells most."""
        since_s = time.monotonic()
        while (best := most_telling(found)).kind is not FaultKind.RAISED:
            wait_s = BROKEN_LINK_S if best.kind is FaultKind.CUT_OFF else LAST_WORDS_S
            left_s = since_s + wait_s - time.monotonic()
            if left_s <= 0:
                break
            if self._from_stages.poll(min(50, round(left_s * 1000) + 1)):
                message = decode_from_stage(self._from_stages.recv())
                if isinstance(message, Failed):
                    found.append(self._failure(message))
                else:
                    self.late.append(message)
            found += self._processes.ended()
        return best

    def _failure(self, message: Failed) -> StageFailed:
        spec = self._specs[message.rank]
        return StageFailed(
            spec.stage, message.cause, message.traceback, message.kind, message.batch_id,
            spec.tensor_rank,
        )  # fmt: skip


def most_telling(signs: list[StageFailed]) -> StageFailed:
    """The cause among several signs of one fault.

    A process that was cut off from its neighbour ends too; that end is no news.
    """
    cut_off = {_process(sign) for sign in signs if sign.kind is FaultKind.CUT_OFF}
    telling = [
        sign for sign in signs if sign.kind is not FaultKind.DIED or _process(sign) not in cut_off
    ]
    return min(telling, key=lambda sign: FAULTS_BY_WORTH.index(sign.kind))


def _process(sign: StageFailed) -> tuple[int, int]:
    return sign.stage, sign.tensor_rank
