"""Stage processes on this machine, reached through sockets in a private folder: the default."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import zmq

from tdpipe.core.errors import StageFailed
from tdpipe.execution.control_socket import Socket
from tdpipe.execution.stage_launcher import StageProcesses
from tdpipe.execution.stage_site import Seat
from tdpipe.execution.stage_watch import Vitals
from tdpipe.execution.wire import StageSpec


class LocalLauncher:
    """Opens sites on this machine.

    Args:
        devices, cores: of each rank; a card that several name is shared by them.
        host_staging: whether hidden states go from stage to stage through host memory, as they must
            where stages share a card.
    """

    def __init__(
        self,
        devices: Sequence[str],
        cores: Sequence[tuple[int, ...]],
        host_staging: bool = False,
    ) -> None:
        self._places = list(zip(devices, cores, strict=True))
        self._host_staging = host_staging

    def open(self, context: "zmq.Context[Socket]") -> "LocalSite":
        """See StageLauncher."""
        return LocalSite(self._places, self._host_staging)

    def close(self) -> None:
        """See StageLauncher."""


class LocalSite:
    """See StageSite."""

    keys = None

    def __init__(self, places: list[tuple[str, tuple[int, ...]]], host_staging: bool) -> None:
        # Mode 0700: the sockets in it are nobody else's.
        self._temporary = tempfile.TemporaryDirectory(prefix="tdpipe-", ignore_cleanup_errors=True)
        self._folder = Path(self._temporary.name)
        self._processes: StageProcesses | None = None
        sharing = Counter(device for device, _ in places)
        self.seats = [
            Seat(
                device,
                cores,
                max(1, len(cores)),
                str(self._folder),
                ranks_on_device=sharing[device],
                host_staging=host_staging,
            )
            for device, cores in places
        ]
        self.rendezvous = f"file://{self._folder / 'rendezvous'}"

    def bind(self, socket: Socket, number: int) -> str:
        """See StageSite."""
        address = f"ipc://{self._folder / f'socket{number}'}"
        socket.bind(address)
        return address

    def launch(self, specs: list[StageSpec]) -> None:
        """See StageSite."""
        self._processes = StageProcesses(specs, self._folder)

    @property
    def pids(self) -> list[int]:
        """See StageSite."""
        return self._processes.pids if self._processes is not None else []

    def ended(self) -> list[StageFailed]:
        """See StageSite."""
        return self._processes.ended() if self._processes is not None else []

    def vitals(self) -> list[Vitals]:
        """See StageSite."""
        return self._processes.vitals() if self._processes is not None else []

    def clock_ahead_s(self, rank: int) -> float:
        """See StageSite."""
        return 0.0

    def all_connected(self) -> None:
        """Leave nothing behind, however the engine ends."""
        self._temporary.cleanup()

    def end(self, at_once: bool) -> None:
        """See StageSite."""
        self._temporary.cleanup()  # first: told to stop, stages no longer do it
        if self._processes is None:
            return
        if at_once:
            self._processes.kill()
        else:
            self._processes.end()

    def close(self) -> None:
        """See StageSite."""
        self._temporary.cleanup()
