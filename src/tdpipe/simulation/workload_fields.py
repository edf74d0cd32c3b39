"""Single values of a workload file, checked: lengths and times, with the place in the error."""

import math

from tdpipe.core.errors import ConfigError

# More digits than any length has; Python refuses to convert thousands of them.
MOST_DIGITS = 18


def broken(where: str, fix: str) -> ConfigError:
    """The error for one bad line or record; `where` is like 'trace.csv, line 3'."""
    return ConfigError("workload", where, fix)


def whole_number(value: object, field: str, where: str) -> int:
    """A number of tokens, as JSON gives it or as a CSV cell spells it; not negative."""
    if isinstance(value, str):
        digits = value.strip()
        if digits.isascii() and digits.isdigit() and len(digits) <= MOST_DIGITS:
            return int(digits)
    elif isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**MOST_DIGITS:
        return value
    raise broken(where, f"{field} must be a whole number of tokens, 0 or more, not {_short(value)}")


def finite_number(value: object, field: str, where: str) -> float:
    """A time: any finite number."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise broken(where, f"{field} must be a number, not {_short(value)}")


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else shown[:37] + "..."
