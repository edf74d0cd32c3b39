"""The connection to a Ray cluster, and the places that are held in it: a bundle for each stage."""

import socket
import time
from contextlib import suppress
from importlib.metadata import version
from typing import Any

from tdpipe.core.errors import ConfigError
from tdpipe.execution.ray_host import HostInfo

# How long a cluster that is busy, or has just lost a node, may take to find room for all stages.
PLACEMENT_LIMIT_S = 60.0
# A cluster that is too small is seen at once; one that has lost a node says so after a while.
TOO_SMALL_AFTER_S = 2.0
LOOK_S = 0.5
# What an actor may take to start, with a Python interpreter and its imports.
ACTOR_LIMIT_S = 120.0
REACH_LIMIT_S = 5.0


class RayCluster:
    """A connection of this process; there is one at a time.

    Args:
        address: as of `ray.init`: auto for the running one, HOST:PORT, or None: the running one,
            else one that is started on this machine.

    Raises:
        ConfigError: Ray is not installed, no cluster answers there, or this process is connected to
            another one.
    """

    def __init__(self, address: str | None) -> None:
        try:
            import ray
        except ImportError:
            fix = 'Ray is not installed here: pip install "tdpipe[ray]", or use mp'
            raise ConfigError("distributed_executor_backend", "ray", fix) from None
        self._ray: Any = ray
        self._is_ours = not ray.is_initialized()
        if not self._is_ours:
            joined = str(ray.get_runtime_context().gcs_address)
            if address is not None and not _is_same(address, joined):
                fix = f"this process is connected to the cluster at {joined}; leave the address out"
                raise ConfigError("ray_address", address, fix)
            return
        fix = "no Ray cluster answers there: give its HOST:PORT, or start one with `ray start`"
        if address is not None and not _is_reachable(address):
            raise ConfigError("ray_address", address, fix)
        try:
            ray.init(address=address, logging_level="ERROR", log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            cause = (str(error).strip().splitlines() or ["no reason given"])[0]
            raise ConfigError("ray_address", address, f"{fix} ({cause})") from None

    def total(self, resource: str) -> float:
        """Of the nodes that are alive: "CPU" or "GPU"."""
        return sum(node.get(resource, 0.0) for node in self._alive())

    def hold(self, num_stages: int, need: dict[str, float], host: type) -> "HeldPlaces":
        """Places for all stages, each with `need` on one node; those of a node are neighbours.

        Args:
            host: the class of the actor in each place.

        Raises:
            ConfigError: the cluster is too small, or others hold it for too long.
        """
        from ray.util.placement_group import placement_group, remove_placement_group

        group = placement_group([need] * num_stages, strategy="PACK")
        started_s = time.monotonic()
        while not group.wait(LOOK_S):
            waited_s = time.monotonic() - started_s
            room = self._room(need)
            if waited_s > (TOO_SMALL_AFTER_S if room < num_stages else PLACEMENT_LIMIT_S):
                remove_placement_group(group)
                wanted = ", ".join(f"{count:g} {name}" for name, count in need.items())
                fix = f"a stage needs {wanted} on one node, and the cluster has room for {room}"
                if room >= num_stages:
                    fix += f", but others have held it for {PLACEMENT_LIMIT_S:.0f} s"
                fix += ": use fewer stages or ranks, or add nodes"
                raise ConfigError("pipeline_parallel_size", num_stages, fix)
        return HeldPlaces(self._ray, group, num_stages, need, host)

    def own_address(self) -> str:
        """At which the other nodes reach this one."""
        return str(self._ray.util.get_node_ip_address())

    def close(self) -> None:
        """Leave the cluster, if it was not joined by somebody else; may be called twice."""
        if self._is_ours:
            self._is_ours = False
            self._ray.shutdown()

    def _alive(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _room(self, need: dict[str, float]) -> int:
        """Stages that the nodes would hold, were they free."""
        return sum(
            int(min(node.get(name, 0.0) // count for name, count in need.items() if count))
            for node in self._alive()
        )


class HeldPlaces:
    """A placement group, and an actor in each of its bundles, in order of stages."""

    def __init__(
        self, ray: Any, group: Any, num_stages: int, need: dict[str, float], host: type
    ) -> None:
        from ray.util.placement_group import placement_group_table
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self._ray, self._group = ray, group
        nodes = placement_group_table(group)["bundles_to_node_id"]
        seen = list(dict.fromkeys(nodes.values()))
        # Neighbours on one node need not go over the network.
        bundles = sorted(range(num_stages), key=lambda bundle: seen.index(nodes[bundle]))
        actor = ray.remote(num_cpus=need["CPU"], num_gpus=need.get("GPU", 0))(host)
        self.hosts = [
            actor.options(
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    group, placement_group_bundle_index=bundle
                )
            ).remote()
            for bundle in bundles
        ]

    def infos(self) -> list[HostInfo]:
        """What the actors say of their nodes, by stage.

        Raises:
            ConfigError: one does not start, or has another version of tdpipe.
        """
        try:
            infos: list[HostInfo] = self._ray.get(
                [host.about.remote() for host in self.hosts], timeout=ACTOR_LIMIT_S
            )
        except self._ray.exceptions.RayError as error:
            fix = f"no actor starts there; is the same tdpipe on every node? ({in_short(error)})"
            raise ConfigError("distributed_executor_backend", "ray", fix) from None
        other = [info for info in infos if info.version != version("tdpipe")]
        if other:
            fix = f"the node {other[0].address} has tdpipe {other[0].version}, not this version"
            raise ConfigError("distributed_executor_backend", "ray", fix)
        return infos

    def free(self) -> None:
        """End the actors and give the places back."""
        from ray.util.placement_group import remove_placement_group

        with suppress(self._ray.exceptions.RayError, RuntimeError):
            for host in self.hosts:
                self._ray.kill(host, no_restart=True)
            remove_placement_group(self._group)


def meeting_point(infos: list[HostInfo]) -> str:
    """The URL at which processes on these nodes meet, the first of them as its host."""
    if len({info.address for info in infos}) == 1:
        return f"file://{infos[0].folder}/rendezvous"
    return f"tcp://{infos[0].address}:{infos[0].free_port}"


def interfaces(infos: list[HostInfo]) -> list[str]:
    """The network interface that each node is to use; none where all is on one."""
    if len({info.address for info in infos}) == 1:
        return [""] * len(infos)
    return [info.interface for info in infos]


def stage_need(ranks: int, threads: int, device: str) -> dict[str, float]:
    """What a stage takes of a node."""
    need = {"CPU": float(ranks * threads)}
    return {**need, "GPU": float(ranks)} if device == "cuda" else need


def in_short(error: BaseException) -> str:
    """The cause of an error of Ray's, without the traceback and the ids that it tells."""
    cause = getattr(error, "cause", None)
    lines = str(cause if isinstance(cause, Exception) else error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _is_same(address: str, joined: str) -> bool:
    """Whether the address means the cluster that this process has joined."""
    if address == "auto":
        return True
    hosts, ports = [], []
    for text in (address, joined):
        host, _, port = text.rpartition(":")
        with suppress(OSError):
            host = socket.gethostbyname(host.strip("[]"))
        hosts.append(host)
        ports.append(port)
    # A cluster of this machine is told by the address that its other nodes use.
    return ports[0] == ports[1] and (hosts[0] == hosts[1] or hosts[0].startswith("127."))


def _is_reachable(address: str) -> bool:
    """Whether somebody listens there: Ray's own attempt ends the process where nobody does."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        return address == "auto" or address == "local"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), REACH_LIMIT_S):
            return True
    except (OSError, OverflowError):
        return False
