"""The stages' work over time as SVG: a row a stage, white where it waits."""

from collections.abc import Sequence

from tdpipe.reporting.stage_bars import StageBar
from tdpipe.reporting.svg_axes import LEFT, Frame, drawing, text, time_axis

TOP, ROW, GAP, BOTTOM = 6, 26, 6, 24
# A batch's number stands in its bar from this width on, in pixels a digit.
DIGIT_PIXELS = 8


def gantt(
    bars: Sequence[StageBar], num_stages: int, low_s: float, high_s: float, notes: Sequence[str]
) -> str:
    """Bars between two times; `notes` stand right of each row."""
    row = ROW if num_stages <= 16 else 12
    frame = Frame(low_s, high_s, 1.0, TOP + num_stages * (row + GAP) + BOTTOM)
    parts = []
    for stage in range(num_stages):
        y = _row_top(stage, row)
        width = frame.right - LEFT
        parts.append(f'<rect class="idle" x="{LEFT}" y="{y}" width="{width}" height="{row}"/>')
        parts.append(text(LEFT - 8, y + row / 2 + 4, f"stage {stage}", "tick", "end"))
        parts.append(text(frame.right + 6, y + row / 2 + 4, notes[stage], "label"))
    parts += _unnamed(frame, [bar for bar in bars if bar.batch is None], row)
    parts += [_named(frame, bar, row) for bar in bars if bar.batch is not None]
    return drawing(frame, "What each stage worked on over time", [*parts, *time_axis(frame)])


def _row_top(stage: int, row: int) -> int:
    return TOP + stage * (row + GAP)


def _unnamed(frame: Frame, bars: Sequence[StageBar], row: int) -> list[str]:
    """One path for all bars of a phase and a share of work: thousands stay small and quick."""
    paths: dict[tuple[str, float], list[str]] = {}
    for bar in bars:
        left, right = frame.x(bar.start_s), frame.x(bar.end_s)
        piece = f"M{left} {_row_top(bar.stage, row)}h{right - left:.1f}v{row}H{left}z"
        paths.setdefault((str(bar.phase), bar.busy), []).append(piece)
    return [
        f'<path class="{phase}" fill-opacity="{busy:g}" d="{"".join(pieces)}"/>'
        for (phase, busy), pieces in paths.items()
    ]


def _named(frame: Frame, bar: StageBar, row: int) -> str:
    """A batch, its number inside where there is room, and what it is for who points at it."""
    left, y = frame.x(bar.start_s), _row_top(bar.stage, row)
    width = max(0.5, frame.x(bar.end_s) - left)
    name = str(bar.batch)
    inside = ""
    if width > DIGIT_PIXELS * (len(name) + 1):
        inside = text(round(left + width / 2, 1), y + row / 2 + 4, name, "batch", "middle")
    milliseconds = 1e3 * (bar.end_s - bar.start_s)
    title = f"batch {name}, {bar.phase}, stage {bar.stage}: {milliseconds:.1f} ms"
    rectangle = (
        f'<rect class="{bar.phase} one" x="{left}" y="{y}" width="{width:.1f}" height="{row}">'
        f"<title>{title}</title></rect>"
    )
    return rectangle + inside
