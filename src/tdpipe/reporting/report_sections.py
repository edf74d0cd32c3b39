"""The parts of report.html, each from a run's record."""

from collections.abc import Mapping, Sequence
from html import escape

from tdpipe.core.batch_plan import Phase
from tdpipe.reporting.html_table import html_table
from tdpipe.reporting.run_bins import phase_bands, run_bins, run_clock
from tdpipe.reporting.run_record import RunRecord
from tdpipe.reporting.run_summary import RunSummary
from tdpipe.reporting.stage_bars import close_look, whole_run
from tdpipe.reporting.svg_axes import number_text
from tdpipe.reporting.svg_charts import Line, forecast_scatter, share_bar, time_panel
from tdpipe.reporting.svg_gantt import gantt

MOST_DECISIONS = 200
LATE_DECISIONS = 20


def tiles(record: RunRecord) -> str:
    """The figures to see first."""
    summary = record.summary
    share = summary.bound_share
    failed = f", {summary.num_failed} failed" if summary.num_failed else ""
    computed = record.trace.prefilled_tokens + summary.output_tokens
    recomputed = summary.recomputed_tokens / computed if computed else 0.0
    figures = [
        (number_text(round(summary.output_tokens_per_s, 1)), "output tokens/s"),
        (number_text(round(summary.total_tokens_per_s, 1)), "prompt + output tokens/s"),
        (duration_text(summary.wall_s), "run time"),
        ("-" if share is None else f"{share:.1%}", "of what the stages allow (bound)"),
        (f"{summary.num_requests:,}", f"requests finished{failed}"),
        (f"{summary.peak_kv_share:.1%}", "of the KV cache at the peak"),
        (f"{recomputed:.1%}", f"recomputed, {summary.num_preemptions} preemptions"),
        (_restarts(summary), "restarts after faults"),
    ]
    inside = "".join(f'<div class="tile"><b>{a}</b><span>{b}</span></div>' for a, b in figures)
    return f'<div class="tiles">{inside}</div>'


def over_time(record: RunRecord) -> str:
    """Throughput, cache and queue over time."""
    bins, bands = run_bins(record.trace), phase_bands(record.trace)
    queue = [
        Line("first", bins.resident),
        Line("second", bins.waiting),
    ]
    panels = [
        ("output tokens/s", [Line("first", bins.output_rates)], False),
        ("prompt tokens/s", [Line("first", bins.prompt_rates)], False),
        ("KV cache in use", [Line("first", bins.kv_shares)], True),
        ("requests: running, and waiting (dashed)", queue, False),
    ]
    drawn = [
        time_panel(title, bands, bins.width_s, lines, percent) for title, lines, percent in panels
    ]
    return "\n".join((phase_key(record), *drawn))


def phase_key(record: RunRecord, stages: bool = False) -> str:
    """Which colour means which phase, for those that the run had."""
    found = {batch.phase for batch in record.trace.batches}
    names = [f'<i class="{phase}"></i>{phase}' for phase in Phase if phase in found]
    if stages:
        names.append('<i class="waits"></i>bubble: the stage waits')
    return f'<p class="key">{"".join(f"<span>{name}</span>" for name in names)}</p>'


def stages(record: RunRecord) -> str:
    """The Gantt chart of the run, and a close look at some batches."""
    trace, summary = record.trace, record.summary
    notes = [f"{share:.0%} busy" for share in summary.stage_busy_shares]
    length_s = run_clock(trace).length_s
    parts = [phase_key(record, stages=True)]
    parts.append(gantt(whole_run(trace), trace.num_stages, 0.0, length_s, notes))
    looked_at = close_look(trace)
    if looked_at:
        low, high = min(bar.start_s for bar in looked_at), max(bar.end_s for bar in looked_at)
        ids = [bar.batch for bar in looked_at if bar.batch is not None]
        words = f"A close look: batches {min(ids)} to {max(ids)}, from {low:.2f} s on."
        blank = [""] * trace.num_stages
        parts += [f"<p>{words}</p>", gantt(looked_at, trace.num_stages, low, high, blank)]
    return "\n".join(parts)


def decisions(record: RunRecord) -> str:
    """Why the scheduler changed its mind, in its own words."""
    origin_s = run_clock(record.trace).origin_s
    rows = [
        (f"{batch.submitted_s - origin_s:.2f} s", str(batch.batch_id), batch.reason)
        for batch in record.trace.batches
        if batch.reason
    ]
    if not rows:
        return "<p>This scheduler gave no reasons: it follows one rule throughout.</p>"
    head = ("time", "batch", "decision")
    left_out = len(rows) - MOST_DECISIONS
    if left_out > 0:
        early, late = rows[: MOST_DECISIONS - LATE_DECISIONS], rows[-LATE_DECISIONS:]
        rows = [*early, ("…", "…", f"{left_out} more decisions, not shown"), *late]
    return f'<div class="scroll">{html_table(head, rows, 2)}</div>'


def forecasts(record: RunRecord) -> str:
    """Forecast against truth."""
    log = record.trace.forecasts
    accuracy, pairs = log.accuracy(), log.pairs()
    if accuracy is None or not pairs:
        return "<p>No request has finished, so there is nothing to compare.</p>"
    if all(forecast == actual for forecast, actual in pairs):
        return "<p>All lengths were known beforehand, so every forecast was right.</p>"
    rows = [
        ("finished requests", f"{accuracy.num_requests:,}"),
        ("mean forecast", f"{accuracy.mean_forecast:.1f} tokens"),
        ("mean actual length", f"{accuracy.mean_actual:.1f} tokens"),
        ("mean error", f"{accuracy.mean_error:+.1f} tokens"),
        ("mean absolute error", f"{accuracy.mean_absolute_error:.1f} tokens"),
        ("between half and double", f"{accuracy.within_double:.1%} of the requests"),
    ]
    words = (
        "<p>A dot is a request. On the middle line the forecast is right, between the dashed ones "
        "within a factor of two. It is the first forecast that counts; a predictor that learns "
        "revises it as the run goes on.</p>"
    )
    scatter = forecast_scatter(pairs)
    return f'<div class="pair"><div>{scatter}</div><div>{words}{html_table((), rows)}</div></div>'


def bound(record: RunRecord) -> str:
    """The run's time against the least that any schedule could take."""
    summary = record.summary
    share = summary.bound_share
    if summary.bound is None or share is None:
        return "<p>No request has finished, so there is no bound.</p>"
    reasons = {
        "compute": "the busiest stage has this much to compute",
        "memory": "the KV cache holds only so many requests at a time",
        "chain": "the longest request's tokens come one after the other",
    }
    source = (
        "Stage times are those of the catalogue; <code>tdpipe profile</code> measures them here."
        if summary.bound.is_estimated
        else "Stage times were measured on this machine."
    )
    words = (
        f"No schedule takes less than {duration_text(summary.bound.seconds)}: "
        f"{reasons.get(summary.bound.name, summary.bound.name)}. {source}"
    )
    label = f"{duration_text(summary.bound.seconds)} of {duration_text(summary.wall_s)}"
    return f"<p>{words}</p>{share_bar(share, f'{share:.1%}: {label}')}"


def summary_table(summary: RunSummary) -> str:
    """The block of figures that the run printed."""
    rows = []
    for line in str(summary).splitlines():
        name, _, words = line.partition(" ")
        rows.append((name, words.strip()) if name != "KV" else ("KV cache", words[6:].strip()))
    return html_table((), rows)


def settings_table(settings: Mapping[str, object]) -> str:
    """The settings that were not left empty."""
    rows = [(name, str(value)) for name, value in settings.items() if value not in (None, "")]
    return html_table((), rows) if rows else "<p>None were recorded.</p>"


def duration_text(seconds: float) -> str:
    """Seconds as a person would say them: 0.52 s, 12.3 s, 4 min 20 s, 3 h 05 min."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def section(title: str, words: str, inside: str) -> str:
    """A part of the page under a heading."""
    explained = f"<p>{escape(words)}</p>" if words else ""
    return f"<section>\n<h2>{escape(title)}</h2>\n{explained}\n{inside}\n</section>"


def in_order(parts: Sequence[str]) -> str:
    """Parts below each other."""
    return "\n".join(part for part in parts if part)


def _restarts(summary: RunSummary) -> str:
    return str(summary.num_restarts)
