"""Devices and nodes by name: vendor figures with their source, and the shares that are reached.

Peak figures are dense (no sparsity) 16-bit tensor throughput with 32-bit accumulation, and memory
bandwidth, from the vendor's data sheet named beside each. How much of them real kernels reach
comes from measurement where there is one (L20: a profile of 13B and 32B models, 0.87 of peak
arithmetic at 2048 tokens, 0.85 of bandwidth at one), else the same shares are assumed, with 0.75
of peak arithmetic for cards that are further above their memory and power limits.
"""

from dataclasses import dataclass, replace

from tdpipe.core.errors import ConfigError
from tdpipe.cost.collectives import Link
from tdpipe.cost.measured_links import MeasuredLinks
from tdpipe.cost.roofline_cost import DeviceRates

GIB = 1 << 30
PCIE_4 = Link(22e9, 1e-5, 14.8e9)  # all-reduce as the paper measured it on 4x A100 PCIe
PCIE_5 = Link(44e9, 1e-5, 29e9)  # twice PCIe 4; not measured
NVLINK_4 = Link(300e9, 5e-6, 360e9)  # H100 SXM, H200: 450 GB/s a direction, nccl reaches about 0.8


@dataclass(frozen=True, slots=True)
class Device:
    """One kind of device.

    Attributes:
        flops: peak 16-bit matrix operations a second (32-bit on CPU).
        bytes_per_s: peak memory bandwidth.
        memory_bytes: its memory.
        link: what joins several of them, where `measured` does not say.
        measured: each of their links.
        compute_share, memory_share: of the two peaks, that real kernels reach.
        batch_overhead_s: launch and other fixed time of a batch on a stage.
        source: where the peaks come from.
    """

    name: str
    flops: float
    bytes_per_s: float
    memory_bytes: int
    link: Link
    compute_share: float
    memory_share: float
    batch_overhead_s: float
    source: str
    measured: MeasuredLinks | None = None

    def link_of(self, num_stages: int, ranks_per_stage: int) -> Link:
        """What joins the devices of a layout."""
        if self.measured is None:
            return self.link
        return self.measured.link(num_stages, ranks_per_stage)

    def rates(self) -> DeviceRates:
        """The rates that the roofline uses."""
        dense, memory = self.flops * self.compute_share, self.bytes_per_s * self.memory_share
        # Attention kernels reach about half of what plain products do.
        return DeviceRates(dense, dense, 0.5 * dense, memory, memory, self.batch_overhead_s)


def _card(
    name: str, tflops: float, gb_per_s: float, gb: int, link: Link, source: str, share: float = 0.75
) -> Device:
    return Device(name, tflops * 1e12, gb_per_s * 1e9, gb * GIB, link, share, 0.85, 5e-4, source)


_CARDS = (
    # The paper measured 14.65 GB/s of all-reduce on 4x L20.
    _card("L20", 119.5, 864, 48, Link(22e9, 1e-5, 14.65e9), "NVIDIA L20 product brief", 0.87),
    _card("L40S", 362.05, 864, 48, PCIE_4, "NVIDIA L40S data sheet"),
    _card("A10", 125, 600, 24, PCIE_4, "NVIDIA A10 data sheet"),
    _card("RTX-4090", 165.2, 1008, 24, PCIE_4, "NVIDIA Ada architecture white paper, appendix A"),
    _card("RTX-PRO-6000", 503.8, 1792, 96, PCIE_5, "NVIDIA RTX Blackwell PRO architecture paper"),
    _card("A100-PCIe-40G", 312, 1555, 40, PCIE_4, "NVIDIA A100 data sheet"),
    _card("A100-PCIe-80G", 312, 1935, 80, PCIE_4, "NVIDIA A100 data sheet"),
    _card("H100-PCIe", 756, 2039, 80, PCIE_5, "NVIDIA H100 PCIe product brief"),
    _card("H100-SXM", 989, 3352, 80, NVLINK_4, "NVIDIA H100 data sheet", 0.7),
    _card("H200", 989, 4800, 141, NVLINK_4, "NVIDIA H200 data sheet", 0.7),
)
DEVICES = {card.name: card for card in _CARDS}

# One core of an x86 server in float32, 3 GHz, by its vectors: estimates for hidden size 576, used
# until `tdpipe profile` has measured the machine's own stages. From benchmarks/projection_rates.py
# and breakdown.py on a processor of each kind.
CPU_CORE = DeviceRates(88e9, 96e9, 45e9, 12e9, 19e9, 3e-3)
CPU_CORE_AVX512 = DeviceRates(109e9, 106e9, 65e9, 20e9, 19e9, 3e-3)
# The same with int8 weights, a quarter of the bytes: the rate of reading is told in float32's.
CPU_CORE_INT8 = replace(CPU_CORE, dense_flops=140e9, vocab_flops=155e9, memory_bytes_per_s=76e9)
CPU_CORE_VNNI = replace(
    CPU_CORE_AVX512, dense_flops=350e9, vocab_flops=340e9, memory_bytes_per_s=95e9
)
CPU_LINK = Link(1.5e9, 2e-4, 1e9)


def cpu_core(vectors: str, int8_weights: bool) -> DeviceRates:
    """The estimate of a core of this machine.

    Args:
        vectors: avx512_vnni, avx512f, or any other.
        int8_weights: whether weights are held as int8, else as float32.
    """
    if int8_weights:
        return CPU_CORE_VNNI if vectors == "avx512_vnni" else CPU_CORE_INT8
    return CPU_CORE_AVX512 if vectors.startswith("avx512") else CPU_CORE


def find_device(name: str) -> Device:
    """The device of that name, in any case.

    Raises:
        ConfigError: there is none.
    """
    for known, device in DEVICES.items():
        if known.lower() == name.lower():
            return device
    raise ConfigError("gpu", name, f"use one of {', '.join(DEVICES)}")
