"""A run as reports see it: what it recorded and what it came to."""

from dataclasses import dataclass

from tdpipe.reporting.run_summary import RunSummary
from tdpipe.tracing.run_trace import RunTrace


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run, real or simulated, finished or not."""

    trace: RunTrace
    summary: RunSummary
