"""The sizes of a decoder-only model that time and memory estimates need; no tensors."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of one model; parameters are counted, not bytes."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool

    @property
    def layer_params(self) -> int:
        """Weights of one decoder layer's matrices (norms and biases are too small to count)."""
        attention = self.hidden_size * self.head_dim * 2 * (self.num_heads + self.num_kv_heads)
        return attention + 3 * self.hidden_size * self.intermediate_size

    @property
    def vocab_params(self) -> int:
        """Weights of the embedding, and again of the vocabulary projection."""
        return self.vocab_size * self.hidden_size

    @property
    def kv_values_per_token(self) -> int:
        """Numbers that one token stores in one layer's KV cache."""
        return 2 * self.num_kv_heads * self.head_dim
