"""The Ray actor of one stage: starts the stage's processes on its node and watches them there.

The processes are those that the engine starts on its own machine otherwise, with the same life
line, whose end the actor holds: when the engine, the node's Ray daemon or the actor goes, they go.
"""

import socket
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import msgspec
import psutil

from tdpipe.execution.models.model_source import resolve_model
from tdpipe.execution.stage_launcher import StageProcesses
from tdpipe.execution.stage_watch import Vitals
from tdpipe.execution.wire import decode_spec


@dataclass(frozen=True, slots=True)
class HostInfo:
    """What the engine has to know of a node.

    Attributes:
        interface: the network interface of its address.
        folder: one that all processes of the stage see.
        free_port: one that nobody used a moment ago.
    """

    version: str
    address: str
    interface: str
    folder: str
    free_port: int


@dataclass(frozen=True, slots=True)
class HostLook:
    """The processes of a stage, by tensor rank: the cause of the end of each that has ended."""

    ended: dict[int, str]
    vitals: list[Vitals]


class StageHost:
    """Starts one stage's processes on the node that it is on."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="tdpipe-", ignore_cleanup_errors=True)
        self._processes: StageProcesses | None = None

    def about(self) -> HostInfo:
        """The node, and a folder on it."""
        return host_info(self._temporary.name)

    def clock_s(self) -> float:
        """The node's monotonic clock."""
        return time.monotonic()

    def launch(self, model: str, specs: list[bytes]) -> list[int]:
        """Start the processes of these StageSpecs; returns their ids.

        Where the engine's model folder is not on this node, `model` is looked for by its name.

        Raises:
            ConfigError: there is no such model here.
        """
        decoded = [decode_spec(spec) for spec in specs]
        if not Path(decoded[0].model_folder).is_dir():
            folder = str(resolve_model(model, decoded[0].load_format).folder)
            decoded = [msgspec.structs.replace(spec, model_folder=folder) for spec in decoded]
        self._processes = StageProcesses(decoded, Path(self._temporary.name))
        return self._processes.pids

    def look(self) -> HostLook:
        """How the processes are."""
        assert self._processes is not None
        ended = {failure.tensor_rank: failure.cause for failure in self._processes.ended()}
        return HostLook(ended, self._processes.vitals())

    def all_connected(self) -> None:
        """Leave no folder behind, however the node ends."""
        self._temporary.cleanup()

    def end(self, at_once: bool) -> None:
        """End the processes; none is left when this returns."""
        self._temporary.cleanup()
        if self._processes is not None:
            if at_once:
                self._processes.kill()
            else:
                self._processes.end()


def host_info(folder: str) -> HostInfo:
    """The node that an actor is on."""
    import ray

    address = str(ray.util.get_node_ip_address())
    return HostInfo(version("tdpipe"), address, _interface_of(address), folder, _free_port())


def _interface_of(address: str) -> str:
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address == address for one in addresses):
            return str(name)
    return ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
