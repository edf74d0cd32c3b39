"""Stage times as a roofline per term: dense work, attention work, vocabulary work, collectives.

Dense work of few tokens costs a read of the weights, of many tokens the arithmetic. With tensor
parallelism the ranks of a stage share all of it and pay two all-reduces a layer.
"""

from dataclasses import dataclass

from tdpipe.core.model_shape import ModelShape
from tdpipe.core.tensor_shard import most_heads, rank_kv_values
from tdpipe.cost.collectives import Link, all_reduce_time_s, transfer_time_s
from tdpipe.cost.cost_model import BatchLoad


@dataclass(frozen=True, slots=True)
class DeviceRates:
    """What one device sustains.

    Attributes:
        dense_flops: floating point operations a second in large matrix products.
        vocab_flops: the same for the vocabulary projection (a tall, thin product).
        pair_flops: the same inside prefill attention.
        memory_bytes_per_s: streaming read bandwidth for weights.
        kv_bytes_per_s: bandwidth that decode attention reaches over the paged cache.
        batch_overhead_s: time a batch takes on a stage whatever its size.
        overlaps: whether arithmetic goes on while weights are read, so that the longer of the
            two counts; else their sum does.
    """

    dense_flops: float
    vocab_flops: float
    pair_flops: float
    memory_bytes_per_s: float
    kv_bytes_per_s: float
    batch_overhead_s: float
    overlaps: bool = True


class RooflineCost:
    """CostModel of a partition `layers` (layers per stage) on equal devices.

    Args:
        shape: the model.
        layers: decoder layers of each stage; the last stage also projects to the vocabulary.
        rates, link: the devices and what joins them.
        value_bytes: bytes of a weight and of an activation.
        tensor_parallel: devices that share each stage.
        kv_value_bytes: bytes of a KV value; None for value_bytes.
    """

    def __init__(
        self,
        shape: ModelShape,
        layers: tuple[int, ...],
        rates: DeviceRates,
        link: Link,
        value_bytes: int,
        tensor_parallel: int = 1,
        kv_value_bytes: int | None = None,
    ) -> None:
        self.shape = shape
        self.layers = layers
        self.rates = rates
        self.link = link
        self.value_bytes = value_bytes
        self.tensor_parallel = tensor_parallel
        self.num_stages = len(layers)
        ranks = tensor_parallel
        # Seconds of one layer: to read its weights, for a token, for a pair, for a cached token.
        self._weights_s = shape.layer_params * value_bytes / rates.memory_bytes_per_s / ranks
        self._token_s = 2 * shape.layer_params / rates.dense_flops / ranks
        # Each visited pair costs a multiply-add for the score and one for the value, per head.
        # Of the rank with the most heads: the others wait for it.
        self._pair_s = 4 * most_heads(shape, ranks) * shape.head_dim / rates.pair_flops
        kv_bytes = rank_kv_values(shape, ranks) * (kv_value_bytes or value_bytes)
        self._cached_s = kv_bytes / rates.kv_bytes_per_s
        self._vocab_weights_s = shape.vocab_params * value_bytes / rates.memory_bytes_per_s / ranks
        self._vocab_row_s = 2 * shape.vocab_params / rates.vocab_flops / ranks
        self._hidden_bytes = shape.hidden_size * value_bytes

    def stage_time_s(self, stage: int, load: BatchLoad) -> float:
        """Seconds of one batch on `stage`: overhead + layers x layer time + projection."""
        time_s = self.rates.batch_overhead_s + self.layers[stage] * self.layer_time_s(load)
        if stage == self.num_stages - 1 and load.sampled:
            time_s += self.vocab_time_s(load.sampled)
        return time_s

    def transfer_time_s(self, num_tokens: int) -> float:
        """Seconds to hand num_tokens hidden states to the next stage."""
        return transfer_time_s(self.link, num_tokens * self._hidden_bytes)

    def layer_time_s(self, load: BatchLoad) -> float:
        """Seconds of one decoder layer."""
        num_tokens = load.prefill_tokens + load.decode_sequences
        return (
            self._dense_s(self._weights_s, self._token_s * num_tokens)
            + self._pair_s * load.prefill_pairs
            + self._cached_s * load.decode_context_tokens
            + 2 * self._all_reduce_s(num_tokens)
        )

    def vocab_time_s(self, num_rows: int) -> float:
        """Seconds of projecting num_rows hidden states to the vocabulary."""
        return self._dense_s(self._vocab_weights_s, self._vocab_row_s * num_rows)

    def communication_time_s(self, stage: int, load: BatchLoad) -> float:
        """Seconds of stage_time_s that are all-reduces."""
        return 2 * self.layers[stage] * self._all_reduce_s(load.num_tokens)

    def _dense_s(self, read_s: float, compute_s: float) -> float:
        return max(read_s, compute_s) if self.rates.overlaps else read_s + compute_s

    def _all_reduce_s(self, num_tokens: int) -> float:
        if self.tensor_parallel == 1:
            return 0.0
        return all_reduce_time_s(self.link, self.tensor_parallel, num_tokens * self._hidden_bytes)
