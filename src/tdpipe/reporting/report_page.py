"""report.html: one run on one page that needs no network, script or other file."""

from html import escape
from pathlib import Path

from tdpipe.reporting import report_sections as parts
from tdpipe.reporting.report_style import STYLE
from tdpipe.reporting.run_record import RunRecord


def report_page(record: RunRecord, failure: str = "") -> str:
    """The page as text.

    Args:
        failure: what ended the run before its time, if anything did.
    """
    summary, model = record.summary, Path(str(record.trace.settings.get("model", ""))).name
    title = ", ".join(filter(None, ("tdpipe run", model, summary.scheduler)))
    layers = ",".join(map(str, summary.partition))
    told = (
        f"{len(summary.partition)} stage{'s' if len(summary.partition) > 1 else ''} of {layers} "
        f"layers, {summary.num_batches:,} batches, {summary.num_switches:,} phase switches"
    )
    failed = f'<p class="failure">The run did not end well: {escape(failure)}</p>'
    body = parts.in_order(
        [
            f"<h1>{escape(title)}</h1>\n<p>{escape(told)}</p>",
            failed if failure else "",
            parts.tiles(record),
            parts.section("Share of the bound", "", parts.bound(record)),
            parts.section(
                "The run over time",
                "Phases are shaded; where they are too short to tell apart, the one that prevails.",
                parts.over_time(record),
            ),
            parts.section(
                "What the stages did",
                "White is a bubble. In a long run, pale is a stretch with many small bubbles.",
                parts.stages(record),
            ),
            parts.section(
                "Switch decisions",
                "What the scheduler said when it changed the phase or the size of batches.",
                parts.decisions(record),
            ),
            parts.section("Length forecast against truth", "", parts.forecasts(record)),
            parts.section("Summary", "", parts.summary_table(record.summary)),
            parts.section("Settings", "", parts.settings_table(record.trace.settings)),
        ]
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        # An empty icon of its own: browsers would ask for /favicon.ico.
        '<link rel="icon" href="data:,">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )
