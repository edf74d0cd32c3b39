"""Rows of text as an aligned table: the first columns to the left, figures to the right."""

from collections.abc import Sequence


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]], num_left: int = 1) -> list[str]:
    """One line for the head and one for each row; the first `num_left` columns hold names."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if place < num_left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    return [line(head), *map(line, rows)]


def seconds_text(seconds: float) -> str:
    """Such as 0.61 s, 44.3 s or 3:20 h."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 6000:
        return f"{seconds:.1f} s"
    return f"{seconds // 3600:.0f}:{int(seconds % 3600 // 60):02d} h"
