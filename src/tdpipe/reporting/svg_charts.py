"""Charts of a run over time with its phases shaded, and of forecast against truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log10

from tdpipe.reporting.run_bins import PhaseBand
from tdpipe.reporting.svg_axes import (
    LEFT,
    TOP,
    Frame,
    drawing,
    number_text,
    round_top,
    text,
    time_axis,
    value_axis,
)

PANEL_HEIGHT = 156
SCATTER_SIZE = 430
MOST_POINTS = 2000


@dataclass(frozen=True, slots=True)
class Line:
    """A value per bin; `kind` is its CSS class."""

    kind: str
    values: Sequence[float]


def time_panel(
    title: str, bands: Sequence[PhaseBand], width_s: float, lines: Sequence[Line], percent: bool
) -> str:
    """Lines over time above the phases; shares from 0 to 1 where `percent`."""
    length_s = width_s * max(len(line.values) for line in lines)
    highest = max((value for line in lines for value in line.values), default=0.0)
    top = 1.0 if percent else round_top(highest * 1.05)
    frame = Frame(0.0, length_s, top, PANEL_HEIGHT)
    parts = [*_shades(frame, bands), *value_axis(frame, title, percent)]
    for line in lines:
        parts.append(f'<path class="line {line.kind}" d="{_steps(frame, line.values, width_s)}"/>')
    return drawing(frame, f"{title} over time", [*parts, *time_axis(frame)])


def forecast_scatter(pairs: Sequence[tuple[int, int]]) -> str:
    """Forecast against actual length, both on the same logarithmic scale, one dot a request."""
    shown = pairs[:: max(1, ceil(len(pairs) / MOST_POINTS))]
    highest = max(max(pair) for pair in shown)
    decades = max(1, ceil(log10(max(2, highest))))
    frame = Frame(0.0, decades, decades, SCATTER_SIZE, SCATTER_SIZE + 90)
    parts = [_along_both(frame, exponent) for exponent in range(decades + 1)]
    corner, end = f"M{frame.x(0)} {frame.y(0)}", f"L{frame.x(decades)} {frame.y(decades)}"
    parts.append(f'<path class="axis" d="{corner}{end}"/>')
    half = log10(2)
    for up, right in ((half, 0.0), (0.0, half)):
        start = f"M{frame.x(right)} {frame.y(up)}"
        stop = f"L{frame.x(decades - up)} {frame.y(decades - right)}"
        parts.append(f'<path class="double" d="{start}{stop}"/>')
    dots = "".join(
        f"M{frame.x(log10(max(1, actual)))} {frame.y(log10(max(1, forecast)))}h0"
        for forecast, actual in shown
    )
    parts.append(f'<path class="dots" d="{dots}"/>')
    parts.append(text(LEFT, TOP - 9, "forecast (output tokens)", "title"))
    parts.append(text(frame.right - 6, frame.floor - 8, "actual", "title", "end"))
    return drawing(frame, "Length forecast against actual length", parts)


def share_bar(share: float, words: str) -> str:
    """A bar that is full to a share of its width."""
    frame = Frame(0.0, 1.0, 1.0, 46)
    width = frame.right - LEFT
    parts = [
        f'<rect class="rest" x="{LEFT}" y="8" width="{width}" height="28"/>',
        f'<rect class="share" x="{LEFT}" y="8" width="{round(min(1.0, share) * width, 1)}" '
        'height="28"/>',
        _beside_or_inside(frame, share, words),
    ]
    return drawing(frame, words, parts)


def _beside_or_inside(frame: Frame, share: float, words: str) -> str:
    if share > 0.4:
        return text(LEFT + 10, 27, words, "inside")
    return text(frame.x(share) + 10, 27, words, "beside")


def _along_both(frame: Frame, exponent: int) -> str:
    x, y, shown = frame.x(exponent), frame.y(exponent), number_text(10**exponent)
    return "".join(
        (
            f'<path class="grid" d="M{x} {frame.y(frame.top)}V{frame.floor}"/>',
            f'<path class="grid" d="M{frame.x(0)} {y}H{frame.x(frame.high)}"/>',
            text(x, frame.floor + 17, shown, "tick", "middle"),
            text(LEFT - 8, y + 4, shown, "tick", "end"),
        )
    )


def _shades(frame: Frame, bands: Sequence[PhaseBand]) -> list[str]:
    """One path for each phase: its bands from the top of the chart to the bottom."""
    paths: dict[str, list[str]] = {}
    for band in bands:
        left, right = frame.x(band.start_s), frame.x(min(band.end_s, frame.high))
        height = frame.floor - TOP
        piece = f"M{left} {TOP}h{right - left:.1f}v{height}H{left}z"
        paths.setdefault(str(band.phase), []).append(piece)
    return [f'<path class="band {name}" d="{"".join(d)}"/>' for name, d in paths.items()]


def _steps(frame: Frame, values: Sequence[float], width_s: float) -> str:
    pieces = [f"M{frame.x(0)} {frame.y(values[0])}"]
    for index, value in enumerate(values):
        pieces.append(f"V{frame.y(value)}H{frame.x((index + 1) * width_s)}")
    return "".join(pieces)
