"""The same check of links (link_check.py) between ranks on the nodes of a Ray cluster."""

import tempfile
from pathlib import Path

from tdpipe.execution.link_check import LinkPlan, LinkRanks, LinkReport, report_of, wait_for
from tdpipe.execution.ray_cluster import (
    ACTOR_LIMIT_S,
    RayCluster,
    interfaces,
    meeting_point,
    stage_need,
)
from tdpipe.execution.ray_host import HostInfo, host_info


class LinkHost:
    """The actor of one stage: runs the ranks of the check on its node."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="tdpipe-links-")
        self._ranks: LinkRanks | None = None

    def about(self) -> HostInfo:
        """The node, and a folder on it."""
        return host_info(self._temporary.name)

    def start(self, ranks: list[int], plan: LinkPlan) -> None:
        """Start these ranks."""
        self._ranks = LinkRanks(ranks, plan, Path(self._temporary.name))

    def are_done(self) -> bool:
        """Whether all have ended."""
        return self._ranks is not None and self._ranks.are_done()

    def end(self) -> dict[str, str]:
        """End the ranks; what they found."""
        return self._ranks.end() if self._ranks is not None else {}


def check_links_on_ray(
    cluster: RayCluster, num_stages: int, ranks_per_stage: int, limit_s: float, device: str
) -> LinkReport:
    """As link_check.check_links, with the ranks where the stages of such a pipeline would be.

    Raises:
        ConfigError: the cluster has no room for them.
    """
    import ray

    num_ranks = num_stages * ranks_per_stage
    on_cards = device == "cuda" or (device == "auto" and cluster.total("GPU") >= num_ranks)
    need = stage_need(ranks_per_stage, 1, "cuda" if on_cards else "cpu")
    places = cluster.hold(num_stages, need, LinkHost)
    try:
        infos, backend = places.infos(), "nccl" if on_cards else "gloo"
        meeting, files = meeting_point(infos), {}
        for stage, (host, interface) in enumerate(
            zip(places.hosts, interfaces(infos), strict=True)
        ):
            ranks = list(range(stage * ranks_per_stage, (stage + 1) * ranks_per_stage))
            host.start.remote(ranks, LinkPlan(num_ranks, backend, meeting, interface))
        asked_s = ACTOR_LIMIT_S
        wait_for(
            lambda: all(
                ray.get([host.are_done.remote() for host in places.hosts], timeout=asked_s)
            ),
            limit_s,
        )
        for found in ray.get([host.end.remote() for host in places.hosts], timeout=asked_s):
            files.update(found)
    finally:
        places.free()
    return report_of(LinkPlan(num_ranks, backend, meeting), files, limit_s)
