"""The seam to where stage processes run: this machine (local_site.py), or a Ray cluster's nodes.

A launcher opens a site for each start of the stages; a restart has a new one, so that nothing of an
earlier start can come through.
"""

from dataclasses import dataclass
from typing import Protocol

import zmq

from tdpipe.core.errors import StageFailed
from tdpipe.execution.control_socket import Socket, WorkerKeys
from tdpipe.execution.stage_watch import Vitals
from tdpipe.execution.wire import StageSpec


@dataclass(frozen=True, slots=True)
class Seat:
    """Where one process is put: the fields of StageSpec that say so.

    Attributes:
        ranks_on_device: processes that compute on the same card, this one included.
        host_staging: whether hidden states go from stage to stage through host memory; the same for
            all processes.
    """

    device: str
    cores: tuple[int, ...]
    threads: int
    folder: str
    interface: str = ""
    ranks_on_device: int = 1
    host_staging: bool = False


class StageSite(Protocol):
    """The processes of one start, in order of ranks, and the way to them."""

    @property
    def seats(self) -> list[Seat]:
        """One for each rank."""
        ...

    @property
    def rendezvous(self) -> str:
        """The URL at which the stages' process group meets."""
        ...

    @property
    def keys(self) -> WorkerKeys | None:
        """What the sockets ask of the processes; None where only this user reaches them."""
        ...

    def bind(self, socket: Socket, number: int) -> str:
        """Bind the engine's socket of that number (0: from all stages, 1 on: to each rank).

        Returns its address. Raises ConfigError where it is taken.
        """
        ...

    def launch(self, specs: list[StageSpec]) -> None:
        """Start the processes. Raises StageFailed when one cannot be."""
        ...

    @property
    def pids(self) -> list[int]:
        """Process ids; on several machines each is of its own."""
        ...

    def ended(self) -> list[StageFailed]:
        """A failure for each process that is no more."""
        ...

    def vitals(self) -> list[Vitals]:
        """What the system says of each process."""
        ...

    def clock_ahead_s(self, rank: int) -> float:
        """How far the monotonic clock of its machine is ahead of the engine's."""
        ...

    def all_connected(self) -> None:
        """Nobody has to find the sockets any more."""
        ...

    def end(self, at_once: bool) -> None:
        """End the processes, by waiting for them first or `at_once`; none is left afterwards."""
        ...

    def close(self) -> None:
        """Free what is left, when the processes and the sockets are gone."""
        ...


class StageLauncher(Protocol):
    """Opens the sites of one engine."""

    def open(self, context: "zmq.Context[Socket]") -> StageSite:
        """A place for a start of the stages. Raises ConfigError where there is none."""
        ...

    def close(self) -> None:
        """Leave the machines; may be called twice."""
        ...
