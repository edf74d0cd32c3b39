"""Figures of simulated runs, each as PNG and SVG, by matplotlib (the extra `plots`).

Colours are those of Okabe and Ito, which people with any colour vision tell apart; what colours
say is also said by position, hatching or lightness, so that prints without colour can be read.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tdpipe.core.batch_plan import Phase
from tdpipe.core.errors import ConfigError
from tdpipe.reporting.bubbles import phase_intervals
from tdpipe.simulation.lower_bound import LowerBound
from tdpipe.simulation.simulated_run import SimulatedRun
from tdpipe.tracing.run_trace import RunTrace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, LINE = "#0072B2", "#000000"
PHASE_COLOURS = {Phase.PREFILL: "#E69F00", Phase.DECODE: "#56B4E9", Phase.MIXED: "#BBBBBB"}
WIDTH_INCHES = 6.5
MOST_POINTS = 2000
MOST_STAGES_NAMED = 8
# matplotlib types its keys as a Literal of all their names.
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.4,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "tdpipe",  # equal runs give equal files
}


@dataclass(frozen=True, slots=True)
class PlottedRun:
    """A run that kept its trace, under the name that figures show."""

    name: str
    run: SimulatedRun
    bound: LowerBound

    @property
    def trace(self) -> RunTrace:
        """What the run recorded."""
        assert self.run.trace is not None, self.name
        return self.run.trace


def check_plots() -> None:
    """Refuse to begin where the figures could not be drawn.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        fix = "figures need matplotlib: pip install tdpipe[plots]"
        raise ConfigError("plots", "matplotlib is not installed", fix)


def write_plots(runs: Sequence[PlottedRun], folder: Path) -> list[Path]:
    """Draw every figure of the runs into the folder; returns the files.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    check_plots()
    import matplotlib

    drawings = {"throughput": _throughput, "kv-use": _kv_use, "bubbles": _bubbles}
    paths = []
    with matplotlib.rc_context(STYLE):
        for name, draw in drawings.items():
            paths += _saved(draw(runs), folder / name)
    return paths


def _saved(figure: "Figure", path: Path) -> list[Path]:
    png, svg = path.with_suffix(".png"), path.with_suffix(".svg")
    figure.savefig(png, dpi=200)
    figure.savefig(svg, metadata={"Date": None})
    return [png, svg]


def _figure(height_inches: float, num_rows: int = 1) -> "tuple[Figure, list[Axes]]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
    axes = figure.subplots(num_rows, 1, sharex=True, squeeze=False)
    return figure, [row[0] for row in axes]


def _throughput(runs: Sequence[PlottedRun]) -> "Figure":
    """Tokens per second of each run, and the most that its bound allows."""
    figure, (axis,) = _figure(0.8 + 0.42 * len(runs))
    rates = [one.run.tokens_per_s for one in runs]
    most = [one.run.makespan_s / one.bound.seconds * one.run.tokens_per_s for one in runs]
    bars = axis.barh(range(len(runs)), rates, height=0.6, color=BLUE)
    axis.bar_label(bars, fmt="{:.0f}", label_type="center", color="white", fontweight="bold")
    low, high = ([row + step for row in range(len(runs))] for step in (-0.4, 0.4))
    axis.vlines(most, low, high, color=LINE, linewidth=1.5, label="no scheduler can be faster")
    axis.set_xlabel("tokens/s (prompt and output)")
    axis.set_xlim(0, 1.03 * max(most))
    _name_rows(axis, runs)
    figure.legend(loc="outside upper right", frameon=False)
    return figure


def _kv_use(runs: Sequence[PlottedRun]) -> "Figure":
    """The cache over time, one row a run, its phases shaded."""
    from matplotlib.patches import Patch

    figure, axes = _figure(0.9 + 1.15 * len(runs), len(runs))
    seen: set[Phase] = set()
    for axis, one in zip(axes, runs, strict=True):
        seen |= _shade_phases(axis, one.trace)
        times_s, shares = _kv_points(one.trace)
        axis.step(times_s, shares, where="post", color=LINE, linewidth=0.9)
        axis.set_ylim(0, 1)
        axis.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
        axis.set_ylabel(one.name, rotation=0, ha="right", va="center")
    axes[-1].set_xlabel("seconds")
    axes[-1].set_xlim(0, max(one.run.makespan_s for one in runs))
    figure.supylabel("KV cache in use", fontsize=9)
    shown = [phase for phase in Phase if phase in seen]
    patches = [Patch(label=f"{phase} phase", **_phase_style(phase)) for phase in shown]
    figure.legend(handles=patches, loc="outside upper right", ncols=3, frameon=False)
    return figure


def _shade_phases(axis: "Axes", trace: RunTrace) -> set[Phase]:
    intervals = phase_intervals(trace)
    found = {interval.phase for interval in intervals}
    for phase in sorted(found):
        spans = [(one.start_s, one.duration_s) for one in intervals if one.phase is phase]
        # Phases may be as many as batches; as pixels they keep the SVG small.
        axis.broken_barh(spans, (0, 1), rasterized=len(spans) > 200, **_phase_style(phase))
    return found


def _phase_style(phase: Phase) -> dict[str, Any]:
    hatch = "////" if phase is Phase.PREFILL else None
    colour = PHASE_COLOURS[phase]
    return {"facecolor": colour, "alpha": 0.6, "hatch": hatch, "linewidth": 0}


def _kv_points(trace: RunTrace) -> tuple[list[float], list[float]]:
    """When a batch was submitted and how full the cache was then, thinned out."""
    step = max(1, len(trace.batches) // MOST_POINTS)
    records = trace.batches[::step]
    shares = [record.kv_used_blocks / trace.num_blocks for record in records]
    return [record.submitted_s for record in records], shares


def _bubbles(runs: Sequence[PlottedRun]) -> "Figure":
    """Idle share of each stage of each run; later stages are darker."""
    num_bars = sum(len(one.run.busy_shares) for one in runs)
    figure, (axis,) = _figure(0.9 + 0.16 * num_bars + 0.2 * len(runs))
    most = max(len(one.run.busy_shares) for one in runs)
    for stage in range(most):
        spots, shares = [], []
        for row, one in enumerate(runs):
            count = len(one.run.busy_shares)
            if stage < count:
                spots.append(row + (stage - (count - 1) / 2) * 0.8 / most)
                shares.append(100 * (1 - one.run.busy_shares[stage]))
        named = most <= MOST_STAGES_NAMED or stage in (0, most - 1)
        label = f"stage {stage}" if named else None
        colour = _stage_colour(stage, most)
        bars = axis.barh(spots, shares, height=0.8 / most, color=colour, label=label)
        for bar in bars:
            bar.set(edgecolor=LINE, linewidth=0.4)
    axis.set_xlabel("share of the run that a stage is idle (%)")
    axis.set_xlim(left=0)
    _name_rows(axis, runs)
    figure.legend(loc="outside upper right", ncols=4, frameon=False)
    return figure


def _stage_colour(stage: int, num_stages: int) -> tuple[float, float, float]:
    """From a light blue for the first stage to a dark one for the last."""
    part = stage / max(1, num_stages - 1)
    light, dark = (0.80, 0.90, 0.96), (0.0, 0.22, 0.40)
    red, green, blue = (a + (b - a) * part for a, b in zip(light, dark, strict=True))
    return red, green, blue


def _name_rows(axis: "Axes", runs: Sequence[PlottedRun]) -> None:
    axis.set_yticks(range(len(runs)), [one.name for one in runs])
    axis.invert_yaxis()
