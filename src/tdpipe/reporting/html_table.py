"""Tables as HTML; every cell is escaped."""

from collections.abc import Sequence
from html import escape


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 0) -> str:
    """A table whose first `numbers` columns hold numbers; without a head where that is empty."""
    lines = [_row(row, numbers, "td") for row in rows]
    if head:
        lines.insert(0, _row(head, numbers, "th"))
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _row(cells: Sequence[str], numbers: int, tag: str) -> str:
    shown = []
    for index, cell in enumerate(cells):
        kind = ' class="number"' if index < numbers else ""
        shown.append(f"<{tag}{kind}>{escape(cell)}</{tag}>")
    return f"<tr>{''.join(shown)}</tr>"
