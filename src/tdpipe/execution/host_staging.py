"""What goes through host memory: a batch's numbers on their way to a card, and hidden states.

Hidden states do (device to host, over gloo, host to device) where stages share a card, which nccl
refuses. Host memory beside a card is pinned (page-locked): the card copies from and to it by
itself, at full speed, in its turn; torch keeps and reuses it. On CPU copies are plain ones or none.
"""

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """x, of host memory, on the device, without waiting for what that was given before."""
    if device.type != "cuda":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


class HostStaging:
    """Copies between one device and the host memory that messages go through."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_pinned = device.type == "cuda"

    def buffer(self, num_rows: int, num_columns: int, dtype: torch.dtype) -> Tensor:
        """Host memory for a message, [num_rows, num_columns]."""
        return torch.empty(num_rows, num_columns, dtype=dtype, pin_memory=self._is_pinned)

    def to_host(self, x: Tensor) -> Tensor:
        """A copy of x [rows, columns] in host memory, complete when this returns.

        It waits for the device to compute x, so that a stage's time ends with its work.
        """
        num_rows, num_columns = x.shape
        host = self.buffer(num_rows, num_columns, x.dtype)
        host.copy_(x)
        return host

    def to_device(self, host: Tensor) -> Tensor:
        """A copy on the device, [rows, columns], in place for what is computed next.

        The host's copy may be dropped at once: torch reuses pinned memory only when the device has
        read it.
        """
        x = torch.empty(host.shape, dtype=host.dtype, device=self._device)
        return x.copy_(host, non_blocking=True)
