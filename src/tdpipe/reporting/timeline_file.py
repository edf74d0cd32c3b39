"""The file of `--timeline`: a Chrome trace that Perfetto opens, and all that a report needs.

What the trace's events do not say is in `otherData`: the settings by name, and under "tdpipe" the
batches as decided (a list per column), forecast against truth, and the run's figures. Times there
are seconds from the first submission, as the events' are microseconds.
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from tdpipe.core.batch_plan import Phase
from tdpipe.core.errors import ConfigError
from tdpipe.reporting.run_record import RunRecord
from tdpipe.reporting.summary_fields import summary_fields, summary_from
from tdpipe.tracing.chrome_trace import chrome_trace
from tdpipe.tracing.forecast_log import ForecastLog
from tdpipe.tracing.run_trace import BatchRecord, RunTrace, StageSpan

FORMAT = 1
KEY = "tdpipe"
COLUMNS = tuple(field.name for field in fields(BatchRecord))


def write_timeline(record: RunRecord, path: Path) -> None:
    """Write the run as JSON to `path`."""
    timeline = chrome_trace(record.trace)
    timeline["otherData"] = {**record.trace.settings, KEY: _beside_the_events(record)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(timeline), encoding="utf-8")


def read_timeline(path: Path) -> RunRecord:
    """The run that `write_timeline` wrote.

    Raises:
        ConfigError: the file cannot be read, or is none that this version writes.
    """
    try:
        timeline = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("timeline", str(path), f"cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise ConfigError("timeline", str(path), "the file is not JSON") from None
    try:
        return _record(timeline)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        fix = "it is no timeline of this version of tdpipe; record one with --timeline"
        raise ConfigError("timeline", str(path), fix) from None


def _beside_the_events(record: RunRecord) -> dict[str, Any]:
    trace = record.trace
    origin_s = _origin_s(trace)
    columns = {name: [getattr(batch, name) for batch in trace.batches] for name in COLUMNS}
    columns["submitted_s"] = [round(time_s - origin_s, 7) for time_s in columns["submitted_s"]]
    return {
        "format": FORMAT,
        "num_stages": trace.num_stages,
        "num_blocks": trace.num_blocks,
        "prefilled_tokens": trace.prefilled_tokens,
        "batches": columns,
        "forecasts": trace.forecasts.as_dict(),
        "summary": summary_fields(record.summary),
    }


def _origin_s(trace: RunTrace) -> float:
    return min((batch.submitted_s for batch in trace.batches), default=0.0)


def _record(timeline: Any) -> RunRecord:
    settings = dict(timeline["otherData"])
    beside = settings.pop(KEY)
    if beside["format"] != FORMAT:
        raise ValueError(beside["format"])
    columns = {**beside["batches"], "phase": map(Phase, beside["batches"]["phase"])}
    rows = zip(*(columns[name] for name in COLUMNS), strict=True)
    events = (event for event in timeline["traceEvents"] if event["ph"] == "X")
    trace = RunTrace(
        num_stages=int(beside["num_stages"]),
        num_blocks=int(beside["num_blocks"]),
        batches=[BatchRecord(*row) for row in rows],
        spans=[_span(event) for event in events],
        settings=settings,
        forecasts=ForecastLog.from_dict(beside["forecasts"]),
        prefilled_tokens=int(beside["prefilled_tokens"]),
    )
    if any(not 0 <= span.stage < trace.num_stages for span in trace.spans):
        raise ValueError("a span of a stage that there is not")
    return RunRecord(trace, summary_from(beside["summary"]))


def _span(event: dict[str, Any]) -> StageSpan:
    start_s = event["ts"] / 1e6
    arguments, end_s = event["args"], start_s + event["dur"] / 1e6
    collective_s = arguments.get("collective_us", 0.0) / 1e6
    return StageSpan(event["tid"], arguments["batch"], start_s, end_s, collective_s)
