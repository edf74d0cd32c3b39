"""The processor of this machine as its system tells it: name and vector instructions.

Names do not tell processors apart: virtual machines often have no more than a family's.
"""

import platform
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
# Of x86 processors, best first.
VECTORS = ("avx512_vnni", "avx512f", "avx2")


def cpu_name() -> str:
    """The processor's name."""
    return _told("model name") or platform.processor() or "unknown"


def cpu_vectors() -> str:
    """The best of the vector instructions that make a difference here, else the architecture."""
    flags = _told("flags").split()
    return next((kind for kind in VECTORS if kind in flags), platform.machine())


def _told(name: str) -> str:
    """What is told of the first processor; nothing where the system keeps no such file."""
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []
    told = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in told if key.strip() == name), "")
