"""A model laid over the devices of a node: which layers where, and what memory is left for KV."""

from dataclasses import dataclass

from tdpipe.core.errors import CapacityError
from tdpipe.core.model_shape import ModelShape
from tdpipe.cost.hardware_catalogue import GIB, Device
from tdpipe.cost.memory_plan import block_bytes
from tdpipe.cost.partition import balanced_partition
from tdpipe.cost.roofline_cost import RooflineCost

# Share of a card that weights, workspace and KV cache may fill (vLLM's default), and the workspace.
UTILIZATION = 0.9
WORKSPACE_BYTES = 1 * GIB


@dataclass(frozen=True, slots=True)
class Placement:
    """`layers` per stage, each stage on `tensor_parallel` devices of one kind."""

    shape: ModelShape
    device: Device
    layers: tuple[int, ...]
    tensor_parallel: int = 1
    value_bytes: int = 2

    @property
    def num_devices(self) -> int:
        return len(self.layers) * self.tensor_parallel

    def cost(self) -> RooflineCost:
        """Times of this placement by the roofline of its device."""
        rates = self.device.rates()
        link = self.device.link_of(len(self.layers), self.tensor_parallel)
        return RooflineCost(
            self.shape, self.layers, rates, link, self.value_bytes, self.tensor_parallel
        )

    def weight_bytes(self, stage: int) -> float:
        """Bytes of weights on each device of a stage."""
        params = self.layers[stage] * self.shape.layer_params
        first, last = stage == 0, stage == len(self.layers) - 1
        shared = first and last and self.shape.tie_word_embeddings
        params += (first + last - shared) * self.shape.vocab_params
        return params * self.value_bytes / self.tensor_parallel

    def kv_bytes(self, stage: int, utilization: float = UTILIZATION) -> float:
        """Bytes that each device of a stage has left for KV; negative if the weights do not fit."""
        usable = self.device.memory_bytes * utilization - WORKSPACE_BYTES
        return usable - self.weight_bytes(stage)

    def block_bytes(self, stage: int, block_size: int) -> int:
        """Bytes of a KV block on the device of a stage that holds most of it."""
        layers, ranks = self.layers[stage], self.tensor_parallel
        return block_bytes(self.shape, layers, block_size, self.value_bytes, ranks)

    def num_blocks(self, block_size: int = 16, utilization: float = UTILIZATION) -> int:
        """KV blocks of the stage that holds fewest.

        Raises:
            CapacityError: the weights leave no room for a block; names the memory it would take.
        """
        blocks = min(
            int(self.kv_bytes(stage, utilization) // self.block_bytes(stage, block_size))
            for stage in range(len(self.layers))
        )
        if blocks < 1:
            raise CapacityError("gpu", self._shown(), self._needed_fix(utilization))
        return blocks

    def _shown(self) -> str:
        return f"{self.num_devices} x {self.device.name} ({self.device.memory_bytes / GIB:.0f} GiB)"

    def _needed_fix(self, utilization: float) -> str:
        most = max(map(self.weight_bytes, range(len(self.layers))))
        needed = (most + WORKSPACE_BYTES) / utilization / GIB
        return (
            f"the weights alone need {needed:.1f} GiB on a device of this layout: use more or "
            "larger devices, or a smaller dtype"
        )


def place(
    shape: ModelShape,
    device: Device,
    num_stages: int,
    tensor_parallel: int = 1,
    value_bytes: int = 2,
) -> Placement:
    """The placement whose layers are split by estimated time.

    Raises:
        ConfigError: there are fewer layers than stages.
    """
    layers = balanced_partition(shape, num_stages, device.rates(), value_bytes, tensor_parallel)
    return Placement(shape, device, layers, tensor_parallel, value_bytes)
