"""The spatial-temporal intensity comparison that ends a decode phase (paper 3.5).

Decoding on wastes the device in space (small batches), switching to prefill wastes it in time
(bubbles). Switch when the first is worse. Differs from the reference code on purpose: the bubble
compares times of one stage with times of one stage, and the prefills looked at are those that
greedy prefill would really admit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tdpipe.cost.cost_model import BatchLoad, CostModel, decode_load, slowest_stage_time_s

# Batch size at which the paper's profile is flat, so that the peak is measured there.
PEAK_BATCH = 256


@dataclass(frozen=True, slots=True)
class Intensities:
    """Both sides of the comparison, each between 0 and 1."""

    spatial: float
    temporal: float

    @property
    def says_switch(self) -> bool:
        return self.spatial < self.temporal

    def __str__(self) -> str:
        return f"spatial {self.spatial:.3f}, temporal {self.temporal:.3f}"


def spatial_intensity(cost: CostModel, batch: int, mean_context: float) -> float:
    """achieved(b) / peak, where achieved(b) = b / t_decode(b): the gain of larger batches left."""
    if batch == 0:
        return 0.0
    return min(
        1.0, _achieved(cost, batch, mean_context) / _achieved(cost, PEAK_BATCH, mean_context)
    )


def temporal_intensity(cost: CostModel, prefills: Sequence[BatchLoad], decode: BatchLoad) -> float:
    """1 - bubble / total for switching now, all times those of one stage.

    bubble = (P - 1) x |longest pending prefill - present decode step|
    total = pending prefills + one decode step of each of the P batches + bubble
    """
    times_s = [slowest_stage_time_s(cost, load) for load in prefills]
    decode_s = slowest_stage_time_s(cost, decode)
    bubble_s = (cost.num_stages - 1) * abs(max(times_s) - decode_s)
    total_s = sum(times_s) + cost.num_stages * decode_s + bubble_s
    return 1.0 - bubble_s / total_s


def compare(
    cost: CostModel, prefills: Sequence[BatchLoad], batch: int, mean_context: float
) -> Intensities:
    """Both intensities for decode batches of `batch` sequences; `prefills` must not be empty."""
    decode = decode_load(batch, round(batch * mean_context))
    spatial = spatial_intensity(cost, batch, mean_context)
    return Intensities(spatial, temporal_intensity(cost, prefills, decode))


def _achieved(cost: CostModel, batch: int, mean_context: float) -> float:
    time_s = slowest_stage_time_s(cost, decode_load(batch, round(batch * mean_context)))
    return batch / time_s
