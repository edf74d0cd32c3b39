"""Time of the collective operations that tensor parallelism needs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Link:
    """What joins the devices of a node.

    Attributes:
        bytes_per_s: one direction of a point-to-point transfer.
        latency_s: of one message.
        all_reduce_bytes_per_s: bus bandwidth that a ring all-reduce reaches over all devices
            (volume moved by one rank over time, as nccl-tests reports it).
        all_reduce_latency_s: of one step of it; None for that of a message.
    """

    bytes_per_s: float
    latency_s: float
    all_reduce_bytes_per_s: float
    all_reduce_latency_s: float | None = None


def transfer_time_s(link: Link, num_bytes: float) -> float:
    """Seconds to move num_bytes to the neighbour."""
    return link.latency_s + num_bytes / link.bytes_per_s


def all_reduce_time_s(link: Link, num_ranks: int, num_bytes: float) -> float:
    """Seconds of a ring all-reduce of num_bytes on each of num_ranks ranks.

    Each rank sends 2 (T - 1) / T of the volume in 2 (T - 1) steps, each with the link's latency.
    """
    if num_ranks == 1:
        return 0.0
    steps = 2 * (num_ranks - 1)
    latency_s = link.latency_s if link.all_reduce_latency_s is None else link.all_reduce_latency_s
    return steps * latency_s + steps / num_ranks * num_bytes / link.all_reduce_bytes_per_s
