"""Stage processes on the nodes of a Ray cluster, reached through encrypted TCP sockets.

engine --CURVE over TCP--> stage processes <--gloo or nccl--> stage processes
   \\--Ray: where, start, signs of life--> StageHost, one actor a stage --> its processes
"""

import time
from dataclasses import dataclass, field
from typing import Any

import zmq

from tdpipe.core.errors import ConfigError, FaultKind, StageFailed
from tdpipe.execution.control_socket import ControlKeys, Socket, limit_strangers
from tdpipe.execution.ray_cluster import (
    ACTOR_LIMIT_S,
    HeldPlaces,
    RayCluster,
    in_short,
    interfaces,
    meeting_point,
    stage_need,
)
from tdpipe.execution.ray_host import HostInfo, HostLook, StageHost
from tdpipe.execution.stage_site import Seat
from tdpipe.execution.stage_watch import Vitals
from tdpipe.execution.wire import StageSpec, encode

LOOPBACK = "127.0.0.1"
# A node that does not even answer has lost its processes, or will.
END_LIMIT_S = 10.0
CLOCK_READINGS = 5


@dataclass(frozen=True, slots=True)
class RayPlan:
    """What is to be placed: P stages of T ranks each, every rank with so many CPU threads.

    Attributes:
        model: its name, for nodes that have not got the engine's folder of it.
        control_port: of the first of the engine's 1 + P * T ports; 0 takes free ones.
    """

    model: str
    num_stages: int
    ranks_per_stage: int
    threads: int
    device: str
    control_port: int = 0


class RayLauncher:
    """See StageLauncher. The cluster is left when it is closed."""

    def __init__(self, cluster: RayCluster, plan: RayPlan) -> None:
        self._cluster, self._plan = cluster, plan

    def open(self, context: "zmq.Context[Socket]") -> "RaySite":
        """See StageLauncher."""
        plan = self._plan
        need = stage_need(plan.ranks_per_stage, plan.threads, plan.device)
        places = self._cluster.hold(plan.num_stages, need, StageHost)
        try:
            return RaySite(places, plan, self._cluster.own_address(), context)
        except BaseException:
            places.free()
            raise

    def close(self) -> None:
        """See StageLauncher."""
        self._cluster.close()


@dataclass(slots=True)
class _Host:
    """One stage's actor, and what is known of its processes."""

    actor: Any
    info: HostInfo
    ahead_s: float
    look: HostLook
    pids: list[int] = field(default_factory=list)
    looking: Any = None  # the look that was asked for, not answered yet
    lost: str | None = None


class RaySite:
    """See StageSite."""

    def __init__(
        self,
        places: HeldPlaces,
        plan: RayPlan,
        own_address: str,
        context: "zmq.Context[Socket]",
    ) -> None:
        import ray

        self._ray: Any = ray
        self._places, self._plan = places, plan
        infos = places.infos()
        self._hosts = [
            _Host(actor, info, self._ahead_s(actor), _nothing_seen(plan.ranks_per_stage))
            for actor, info in zip(places.hosts, infos, strict=True)
        ]
        addresses = {info.address for info in infos}
        # Without a stage elsewhere nothing listens to the network.
        self._own_address = LOOPBACK if addresses == {own_address} else own_address
        on_cpu = plan.device == "cpu"
        self.seats = [
            Seat(
                "cpu" if on_cpu else f"cuda:{rank}",  # of those that Ray shows to the actor
                (),  # Ray keeps no cores apart: pinned, two engines would meet on one
                plan.threads if on_cpu else 1,
                info.folder,
                interface,
            )
            for info, interface in zip(infos, interfaces(infos), strict=True)
            for rank in range(plan.ranks_per_stage)
        ]
        self.rendezvous = meeting_point(infos)
        self._control_keys = ControlKeys(context)
        self.keys = self._control_keys.of_workers

    # ---- start

    def bind(self, socket: Socket, number: int) -> str:
        """See StageSite."""
        limit_strangers(socket)
        self._control_keys.guard(socket)
        port = self._plan.control_port
        try:
            socket.bind(f"tcp://{self._own_address}:{port + number if port else '*'}")
        except zmq.ZMQError as error:
            fix = f"port {port + number} of {self._own_address} cannot be had ({error.strerror})"
            fix += ": give another, or 0 for any"
            raise ConfigError("control_port", port, fix) from None
        return socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def launch(self, specs: list[StageSpec]) -> None:
        """See StageSite."""
        ranks = self._plan.ranks_per_stage
        started = [
            host.actor.launch.remote(
                self._plan.model,
                [encode(spec) for spec in specs[stage * ranks : (stage + 1) * ranks]],
            )
            for stage, host in enumerate(self._hosts)
        ]
        for stage, (host, one) in enumerate(zip(self._hosts, started, strict=True)):
            try:
                host.pids = self._ray.get(one, timeout=ACTOR_LIMIT_S)
            except self._ray.exceptions.RayError as error:
                raise StageFailed(stage, f"on {host.info.address}: {in_short(error)}") from None

    def all_connected(self) -> None:
        """See StageSite."""
        for host in self._hosts:
            host.actor.all_connected.remote()

    # ---- watch

    @property
    def pids(self) -> list[int]:
        """See StageSite."""
        return [pid for host in self._hosts for pid in host.pids]

    def ended(self) -> list[StageFailed]:
        """See StageSite."""
        found = []
        for stage, host in enumerate(self._hosts):
            self._follow(host)
            node = host.info.address
            if host.lost is not None:
                cause = f"the node {node}, or Ray's actor on it, is gone: {host.lost}"
                found.append(StageFailed(stage, cause, kind=FaultKind.DIED))
            for rank, cause in host.look.ended.items():
                failure = StageFailed(
                    stage, f"on {node}, {cause}", kind=FaultKind.DIED, tensor_rank=rank
                )
                found.append(failure)
        return found

    def vitals(self) -> list[Vitals]:
        """See StageSite; as of the last look that was answered."""
        for host in self._hosts:
            self._follow(host)
        return [one for host in self._hosts for one in host.look.vitals]

    def clock_ahead_s(self, rank: int) -> float:
        """See StageSite; as measured at the start."""
        return self._hosts[rank // self._plan.ranks_per_stage].ahead_s

    # ---- end

    def end(self, at_once: bool) -> None:
        """See StageSite."""
        ends = [host.actor.end.remote(at_once) for host in self._hosts if host.lost is None]
        if ends:
            self._ray.wait(ends, num_returns=len(ends), timeout=END_LIMIT_S)
        self._places.free()

    def close(self) -> None:
        """See StageSite."""
        self._control_keys.close()

    # ---- details

    def _follow(self, host: _Host) -> None:
        """Take the look that was asked for, if it has come, and ask for the next."""
        if host.lost is not None:
            return
        if host.looking is not None:
            ready, _ = self._ray.wait([host.looking], timeout=0)
            if not ready:
                return
            try:
                host.look = self._ray.get(host.looking)
            except self._ray.exceptions.RayError as error:
                host.lost = in_short(error)
                return
        host.looking = host.actor.look.remote()

    def _ahead_s(self, actor: Any) -> float:
        """Of the quickest of some readings of its clock, in the middle of which it was read."""
        readings = []
        for _ in range(CLOCK_READINGS):
            before_s = time.monotonic()
            there_s = self._ray.get(actor.clock_s.remote(), timeout=ACTOR_LIMIT_S)
            after_s = time.monotonic()
            readings.append((after_s - before_s, there_s - (before_s + after_s) / 2))
        return float(min(readings)[1])


def _nothing_seen(num_ranks: int) -> HostLook:
    return HostLook({}, [Vitals(False, 0.0)] * num_ranks)
