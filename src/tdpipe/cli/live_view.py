"""The live view of a run: what `rich` draws for a moment, on terminals of any width.

From WIDE columns on the stages stand beside the figures, below that under them.
"""

from datetime import timedelta

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tdpipe.outputs import Progress

WIDE = 110
MOST_WIDE = 150
# Below this many columns words are left out, so that the figures stay.
NARROW = 60
# Rows that are not a stage's: border, figures, bar and heads.
ROWS_BESIDE_STAGES = 13
PHASE_STYLES = {"prefill": "yellow", "decode": "cyan", "mixed": "magenta"}


class LiveView:
    """Draws the latest moment; None while the stages start."""

    def __init__(self) -> None:
        self.progress: Progress | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.progress is None:
            yield Text("starting stages ...", no_wrap=True, overflow="ellipsis")
            return
        height = options.height or console.height
        yield drawing(self.progress, options.max_width, max(height, ROWS_BESIDE_STAGES))


def drawing(progress: Progress, width: int, height: int) -> RenderableType:
    """The view of a moment, at most `width` columns and `height` rows."""
    phase = progress.phase or "starting"
    title = f"[bold]tdpipe[/] [{PHASE_STYLES.get(phase, 'white')}]{phase}[/]"
    figures = Group(_done(progress, width), _figures(progress, width))
    rows = max(1, height - ROWS_BESIDE_STAGES)
    if width < WIDE:
        inside: RenderableType = Group(figures, _stages(progress, rows))
    else:
        inside = Table.grid(padding=(0, 3), expand=True)
        inside.add_column(ratio=1)
        inside.add_column(ratio=1)
        inside.add_row(figures, _stages(progress, rows + 6))
    return Panel(
        inside,
        title=title,
        title_align="left",
        box=box.ROUNDED,
        width=min(width, MOST_WIDE),
        padding=(0, 1) if width >= NARROW else (0, 0),
    )


def time_text(seconds: float | None) -> str:
    """Hours, minutes and seconds; a dash for what is not known."""
    return "-" if seconds is None else str(timedelta(seconds=round(seconds)))


def _done(progress: Progress, width: int) -> RenderableType:
    """Requests done, as a bar and in numbers."""
    total = max(1, progress.num_requests)
    line = Table.grid(padding=(0, 1), expand=True)
    line.add_column(no_wrap=True)
    line.add_column(ratio=1)
    line.add_column(no_wrap=True, justify="right")
    words = f"{progress.num_finished:,}/{progress.num_requests:,}"
    line.add_row(
        Text(f"{words} requests" if width >= NARROW else words, style="bold"),
        ProgressBar(total=total, completed=progress.num_finished),
        f"{progress.num_finished / total:.0%}",
    )
    return line


def _figures(progress: Progress, width: int) -> RenderableType:
    """Names and figures, two pairs a row where there is room."""
    rate = f"{progress.recent_tokens_per_s:,.1f} now, {progress.output_tokens_per_s:,.1f} in all"
    lost = f"{progress.recomputed_share:.1%}, {progress.num_preemptions:,} preemptions"
    lanes = f"{progress.lane_imbalance:.0%} of {'/'.join(map(str, progress.lane_sizes)) or '-'}"
    queue = f"{progress.num_running:,} running, {progress.num_waiting:,} waiting"
    pairs = [
        ("elapsed", Text(time_text(progress.elapsed_s))),
        ("time left", Text(time_text(progress.left_s))),
        ("tokens/s", Text(rate)),
        ("KV cache", _share(progress.kv_used_share)),
        ("requests", Text(queue)),
        ("recomputed", Text(lost)),
        ("imbalance", Text(lanes)),
        ("errors", _alarm(progress.num_failed, "red")),
        ("restarts", _alarm(progress.num_restarts, "yellow")),
    ]
    table = Table.grid(padding=(0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, value in _paired(pairs):
        table.add_row(name, _one_line(value))
    return table


def _paired(pairs: list[tuple[str, Text]]) -> list[tuple[str, Text]]:
    """Times share a row, errors and restarts too: the view has to fit 24 rows."""
    (first, elapsed), (left, eta), *rest = pairs
    *middle, (errors, failed), (restarts, again) = rest
    times = Text.assemble(elapsed, ("   " + left + " ", "dim"), eta)
    faults = Text.assemble(failed, ("   " + restarts + " ", "dim"), again)
    return [(first, times), *middle, (errors, faults)]


def _share(share: float) -> Text:
    style = "red" if share > 0.97 else "green"
    full = round(20 * min(1.0, share))
    return Text.assemble(f"{share:4.0%} ", ("━" * full, style), ("━" * (20 - full), "dim"))


def _alarm(count: int, style: str) -> Text:
    return Text(f"{count:,}", style=f"bold {style}" if count else "")


def _stages(progress: Progress, most_rows: int) -> RenderableType:
    """Each stage with how busy it is and the batches that it has or will take up next."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, pad_edge=False)
    table.add_column("stage", justify="right", no_wrap=True)
    table.add_column("busy", justify="right", no_wrap=True)
    table.add_column("batches in flight")
    shares = progress.stage_busy_shares
    hidden = len(shares) - most_rows if len(shares) > most_rows else 0
    for stage, share in enumerate(shares[: len(shares) - hidden]):
        held = [batch for batch in progress.in_flight if batch.stage == stage]
        words = Text("  ").join(
            Text(_size(batch.prefill_tokens, batch.num_decodes), PHASE_STYLES.get(batch.phase, ""))
            for batch in held
        )
        table.add_row(str(stage), f"{share:.0%}", _one_line(words or Text("-", "dim")))
    if hidden:
        table.add_row("...", "", _one_line(Text(f"{hidden} more stages", "dim")))
    return table


def _one_line(words: Text) -> Text:
    """Cut where there is no room; the columns before it keep theirs."""
    words.no_wrap, words.overflow = True, "ellipsis"
    return words


def _size(prefill_tokens: int, num_decodes: int) -> str:
    """A batch in words: what it prefills and how many requests it decodes."""
    sizes = (f"{prefill_tokens} prompt tokens", f"{num_decodes} decodes")
    return " + ".join(
        size for size, count in zip(sizes, (prefill_tokens, num_decodes), strict=True) if count
    )
