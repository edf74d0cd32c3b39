"""The fastest attention backend that serves a cache's dtype and device."""

import torch

from tdpipe.execution.attention.attention_backend import AttentionBackend
from tdpipe.execution.attention.torch_attention import TorchAttention


def choose_attention(dtype: torch.dtype, device: torch.device) -> AttentionBackend:
    """The compiled CPU kernel for float32 on CPU, plain torch otherwise."""
    if dtype == torch.float32 and device.type == "cpu":
        # Imported here: numba takes a second to import, which other devices need not spend.
        from tdpipe.execution.attention.numba_attention import NumbaAttention

        return NumbaAttention()
    return TorchAttention()
