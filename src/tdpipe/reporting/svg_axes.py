"""Axes of a chart as SVG: a frame that turns values into places, with round numbers along it."""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from math import floor, log10

WIDTH = 1180
LEFT, RIGHT, TOP, BOTTOM = 76, 84, 24, 24


@dataclass(frozen=True, slots=True)
class Frame:
    """A chart's plane: values x from `low` to `high`, y from 0 to `top`; sizes in pixels."""

    low: float
    high: float
    top: float
    height: int
    width: int = WIDTH

    def x(self, value: float) -> float:
        """Where a value on the horizontal axis is."""
        span = max(self.high - self.low, 1e-12)
        return round(LEFT + (value - self.low) / span * (self.width - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        """Where a value on the vertical axis is."""
        share = value / self.top if self.top else 0.0
        return round(self.floor - share * (self.floor - TOP), 1)

    @property
    def floor(self) -> int:
        """Where the horizontal axis is."""
        return self.height - BOTTOM

    @property
    def right(self) -> int:
        """Where the plane ends."""
        return self.width - RIGHT


def round_steps(top: float, most: int = 5) -> list[float]:
    """Round numbers from 0 to `top`, at most `most` steps apart by 1, 2 or 5 times a power of 10.

    Empty for nothing.
    """
    if top <= 0:
        return []
    power = 10.0 ** floor(log10(top / most))
    step = next(power * f for f in (1, 2, 5, 10, 20) if top / (power * f) <= most)
    return [round(index * step, 10) for index in range(int(top / step + 1e-9) + 1)]


def round_top(value: float) -> float:
    """A round number that is at least the value, for the upper end of an axis."""
    steps = round_steps(value)
    if len(steps) < 2:
        return 1.0
    return steps[-1] if steps[-1] >= value else steps[-1] + steps[1]


def number_text(value: float) -> str:
    """A number in few signs: 0.25, 12, 1,500, 2.5M."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    """A piece of text; `kind` is its CSS class."""
    chosen = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{chosen}>{escape(words)}</text>'


def time_axis(frame: Frame) -> list[str]:
    """Seconds below the chart."""
    parts = [f'<path class="axis" d="M{LEFT} {frame.floor}H{frame.right}"/>']
    for step in round_steps(frame.high - frame.low, 10):
        x = frame.x(frame.low + step)
        parts.append(f'<path class="axis" d="M{x} {frame.floor}v4"/>')
        shown = number_text(frame.low + step if frame.low == 0 else step)
        parts.append(text(x, frame.floor + 17, f"{shown} s", "tick", "middle"))
    return parts


def value_axis(frame: Frame, title: str, percent: bool = False) -> list[str]:
    """Numbers left of the chart, with lines across it, and above them what they are of."""
    parts = []
    for step in round_steps(frame.top, 4):
        y = frame.y(step)
        shown = f"{step:.0%}" if percent else number_text(step)
        parts.append(f'<path class="grid" d="M{LEFT} {y}H{frame.right}"/>')
        parts.append(text(LEFT - 8, y + 4, shown, "tick", "end"))
    parts.append(text(LEFT, TOP - 9, title, "title"))
    return parts


def drawing(frame: Frame, label: str, parts: Iterable[str]) -> str:
    """The SVG element that holds the parts; `label` says what it shows to who cannot see it."""
    inside = "\n".join(parts)
    return (
        f'<svg viewBox="0 0 {frame.width} {frame.height}" role="img" '
        f'aria-label="{escape(label)}">\n{inside}\n</svg>'
    )
