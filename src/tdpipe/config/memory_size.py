"""Memory sizes as people write them."""

import re

from tdpipe.core.errors import ConfigError

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}


def parse_memory_size(field: str, value: int | str) -> int:
    """Bytes in `value`: a number of bytes, or a number and a unit such as 512MiB or 4GiB.

    Raises:
        ConfigError: it is neither, or not above 0.
    """
    fix = "give bytes above 0, or a size such as 512MiB or 4GiB"
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ConfigError(field, value, fix)
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*", str(value))
    if match is None or match[2].lower() not in _UNITS:
        raise ConfigError(field, value, fix)
    size = int(float(match[1]) * _UNITS[match[2].lower()])
    if size <= 0:
        raise ConfigError(field, value, fix)
    return size
