"""Memory of stages on CPU in pages of 2 MiB instead of 4 KiB.

Weights and KV cache are read whole again and again, and of small pages a core remembers the
addresses of a few MiB only. Linux gives large ones where a program asks for them; the C library
asks for all that it allocates if its tunable says so (glibc 2.35 and newer, others ignore it).
"""

from collections.abc import Mapping

TUNABLES = "GLIBC_TUNABLES"
NAME = "glibc.malloc.hugetlb"
ASK = f"{NAME}=1"  # 1: transparent ones, as far as there are any


def with_huge_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """What a process needs in its environment besides this one; a user's own choice stays."""
    given = environment.get(TUNABLES, "")
    if NAME in given:
        return {}
    return {TUNABLES: f"{given}:{ASK}" if given else ASK}
