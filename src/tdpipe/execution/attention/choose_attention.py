"""The fastest attention backend that serves a cache's dtype and device."""

from importlib.util import find_spec

import torch

from tdpipe.execution.attention.attention_backend import AttentionBackend
from tdpipe.execution.attention.torch_attention import TorchAttention


def choose_attention(dtype: torch.dtype, device: torch.device) -> AttentionBackend:
    """Triton on CUDA where it is installed, the compiled kernel for float32 on CPU, else torch."""
    if dtype == torch.float32 and device.type == "cpu":
        # Imported here: the kernels are loaded where they are used.
        from tdpipe.execution.attention.numba_attention import NumbaAttention

        return NumbaAttention()
    if device.type == "cuda" and find_spec("triton") is not None:
        from tdpipe.execution.attention.triton_attention import TritonAttention

        return TritonAttention(torch.cuda.get_device_properties(device).multi_processor_count)
    return TorchAttention()
