"""One start of the stage processes: their sockets and messages. A restart makes a new one.

Nothing of an earlier start can come through: it had other sockets, at another site.
"""

import contextlib
import logging
import time
from collections.abc import Callable

import msgspec
import zmq

from tdpipe.core.errors import FaultKind, StageFailed
from tdpipe.execution.control_socket import Socket
from tdpipe.execution.stage_site import StageLauncher, StageSite
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

log = logging.getLogger("tdpipe")

# After the first sign of a fault others may tell more of it: a neighbour's broken link comes
# before the end of the process that broke it, and that before its last words.
LAST_WORDS_S = 0.2
BROKEN_LINK_S = 1.0
FAULTS_BY_WORTH = list(FaultKind)

# What decoding raises; text that is not UTF-8 is a ValueError, lists in lists a RecursionError.
NO_MESSAGE = (msgspec.MsgspecError, ValueError, RecursionError)

# Made of where each process is, the engine's address, and that of each rank's own socket.
MakeSpecs = Callable[[StageSite, str, list[str]], list[StageSpec]]


class StageConnection:
    """Stage processes and the sockets to them.

    Args:
        launcher: opens the site where they run.
        num_ranks: how many; their sockets are bound before the processes start.
        specs: makes their specifications, in order of ranks.

    `late` are the messages that came while a fault was looked into, in order.

    Raises:
        ConfigError: there is no place for them.
    """

    def __init__(self, launcher: StageLauncher, num_ranks: int, specs: MakeSpecs) -> None:
        self._context = zmq.Context()
        self._sockets: list[Socket] = []
        self._is_closed = self._has_warned = False
        self.late: list[FromStage] = []
        try:
            self._site = launcher.open(self._context)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        try:
            engine = self._bind(zmq.PULL)
            ranks = [self._bind(zmq.PUSH) for _ in range(num_ranks)]
            self._from_stages, *self._to_stages = self._sockets
            self._specs = specs(self._site, engine, ranks)
            self._site.launch(self._specs)
        except BaseException:
            self._site.end(at_once=True)
            self._free()
            raise

    @property
    def pids(self) -> list[int]:
        return self._site.pids

    def all_connected(self) -> None:
        """Remove what was there to find the engine; once all are connected nobody needs it."""
        self._site.all_connected()

    def vitals(self) -> list[Vitals]:
        """What the system says of each stage's process."""
        return self._site.vitals()

    def clock_ahead_s(self, rank: int) -> float:
        """How far the clock of a process is ahead of the engine's."""
        return self._site.clock_ahead_s(rank)

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
        message = self._next_message()
        if isinstance(message, Failed):
            raise self._explained([self._failure(message)])
        return message

    def has_message(self) -> bool:
        """Whether a message waits to be received."""
        return bool(self._from_stages.poll(0))

    def check(self) -> None:
        """Raises StageFailed when a stage has ended."""
        ended = self._site.ended()
        if ended:
            raise self._explained(ended)

    def close(self, at_once: bool = False) -> None:
        """End all stages, by asking them or `at_once`; may be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        if not at_once:
            with contextlib.suppress(StageFailed):
                self.broadcast(Stop())
        self._site.end(at_once)
        self._free()

    # ---- details

    def _bind(self, kind: int) -> str:
        socket = self._context.socket(kind)
        self._sockets.append(socket)
        return self._site.bind(socket, len(self._sockets) - 1)

    def _free(self) -> None:
        # One by one: when the interpreter shuts down the context has lost track of its sockets,
        # and would wait for ever for those that are open.
        for socket in self._sockets:
            socket.close(linger=0)
        self._site.close()
        self._context.term()

    def _next_message(self) -> FromStage | None:
        """A message that waits; None for one that no stage of this pipeline would send."""
        try:
            message: FromStage = decode_from_stage(self._from_stages.recv())
            if not 0 <= message.rank < len(self._specs):
                raise msgspec.ValidationError(f"rank {message.rank} is none of this pipeline's")
        except NO_MESSAGE as error:
            if not self._has_warned:
                self._has_warned = True
                log.warning("a message to the engine that is none is left out (%s)", error)
            return None
        return message

    def _explained(self, found: list[StageFailed]) -> StageFailed:
        """Of all signs of a fault that come in a moment, the one that tells most."""
        since_s = time.monotonic()
        while (best := most_telling(found)).kind is not FaultKind.RAISED:
            wait_s = BROKEN_LINK_S if best.kind is FaultKind.CUT_OFF else LAST_WORDS_S
            left_s = since_s + wait_s - time.monotonic()
            if left_s <= 0:
                break
            if self._from_stages.poll(min(50, round(left_s * 1000) + 1)):
                message = self._next_message()
                if isinstance(message, Failed):
                    found.append(self._failure(message))
                elif message is not None:
                    self.late.append(message)
            found += self._site.ended()
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
