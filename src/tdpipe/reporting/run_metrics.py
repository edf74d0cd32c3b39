"""The file of `--metrics`: a run's figures, settings, errors and forecasts, as plain values."""

from dataclasses import asdict
from typing import Any

from tdpipe.reporting.run_record import RunRecord
from tdpipe.reporting.summary_fields import summary_fields


def run_metrics(record: RunRecord, failure: str = "") -> dict[str, Any]:
    """All figures of the run; `failure` is what ended it before its time.

    Times are in seconds, lengths in tokens, shares between 0 and 1.
    """
    summary, accuracy = record.summary, record.trace.forecasts.accuracy()
    return {
        "summary": summary_fields(summary),
        "settings": dict(record.trace.settings),
        "errors": {"num_failed": summary.num_failed, "run": failure or None},
        "forecasts": None if accuracy is None else asdict(accuracy),
    }
