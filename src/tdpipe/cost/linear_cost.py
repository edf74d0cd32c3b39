"""Stage times as sums of rates: dense work, attention work, vocabulary work, a fixed overhead.

A roofline per term: dense work of few tokens costs a read of the weights, of many tokens the
arithmetic. Rates come from a device estimate here; a measured table can replace this model.
"""

from dataclasses import dataclass

from tdpipe.core.model_shape import ModelShape
from tdpipe.cost.cost_model import BatchLoad


@dataclass(frozen=True, slots=True)
class DeviceRates:
    """What one stage's device sustains.

    Attributes:
        dense_flops: floating point operations a second in large matrix products.
        vocab_flops: the same for the vocabulary projection (a tall, thin product).
        pair_flops: the same inside prefill attention.
        memory_bytes_per_s: streaming read bandwidth for weights.
        kv_bytes_per_s: bandwidth that decode attention reaches over the paged cache.
        batch_overhead_s: time a batch takes whatever its size.
        link_bytes_per_s, link_latency_s: stage-to-stage transfers.
    """

    dense_flops: float
    vocab_flops: float
    pair_flops: float
    memory_bytes_per_s: float
    kv_bytes_per_s: float
    batch_overhead_s: float
    link_bytes_per_s: float
    link_latency_s: float


# One core of a current x86 server (AVX-512) in float32, as measured with packed products of hidden
# size 576 and the compiled decode attention; two such stages at work at once.
CPU_CORE = DeviceRates(95e9, 100e9, 35e9, 9e9, 9.5e9, 1.5e-3, 1.5e9, 2e-4)
# A mid-range data-centre card on PCIe 4 (L20: 119.5 TFLOPS dense fp16, 864 GB/s, vendor figures),
# with 60 % of peak arithmetic and 80 % of peak bandwidth reached.
CUDA_CARD = DeviceRates(72e12, 60e12, 36e12, 690e9, 600e9, 3e-4, 14e9, 2e-5)


class LinearCost:
    """CostModel of a partition `layers` (layers per stage) on equal devices."""

    def __init__(
        self, shape: ModelShape, layers: tuple[int, ...], rates: DeviceRates, value_bytes: int
    ) -> None:
        self.shape = shape
        self.layers = layers
        self.rates = rates
        self.value_bytes = value_bytes
        self.num_stages = len(layers)

    def stage_time_s(self, stage: int, load: BatchLoad) -> float:
        """Seconds of one batch on `stage`: overhead + layers x layer time + projection."""
        time_s = self.rates.batch_overhead_s + self.layers[stage] * self.layer_time_s(load)
        if stage == self.num_stages - 1:
            time_s += self.vocab_time_s(load.sampled)
        return time_s

    def transfer_time_s(self, num_tokens: int) -> float:
        volume = num_tokens * self.shape.hidden_size * self.value_bytes
        return self.rates.link_latency_s + volume / self.rates.link_bytes_per_s

    def layer_time_s(self, load: BatchLoad) -> float:
        """Seconds of one decoder layer."""
        rates, shape = self.rates, self.shape
        weights_s = shape.layer_params * self.value_bytes / rates.memory_bytes_per_s
        dense_s = 2 * shape.layer_params * load.num_tokens / rates.dense_flops
        # Each visited pair costs a multiply-add for the score and one for the value, per head.
        pairs_s = 4 * shape.num_heads * shape.head_dim * load.prefill_pairs / rates.pair_flops
        cached = load.decode_context_tokens * shape.kv_values_per_token * self.value_bytes
        return max(weights_s, dense_s) + pairs_s + cached / rates.kv_bytes_per_s

    def vocab_time_s(self, num_rows: int) -> float:
        """Seconds of projecting num_rows hidden states to the vocabulary."""
        if num_rows == 0:
            return 0.0
        weights_s = self.shape.vocab_params * self.value_bytes / self.rates.memory_bytes_per_s
        return max(weights_s, 2 * self.shape.vocab_params * num_rows / self.rates.vocab_flops)
