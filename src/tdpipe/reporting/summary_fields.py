"""A run's figures as plain values for JSON, and back."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from typing import Any

from tdpipe.reporting.run_summary import RunBound, RunSummary

# Worked out from the others: written for who reads the file, not read back.
DERIVED = ("bound_share", "output_tokens_per_s", "total_tokens_per_s")


def summary_fields(summary: RunSummary) -> dict[str, Any]:
    """All figures by name, those worked out from others too."""
    return {**asdict(summary), **{name: getattr(summary, name) for name in DERIVED}}


def summary_from(values: Mapping[str, Any]) -> RunSummary:
    """The summary that `summary_fields` made these values of.

    Raises:
        KeyError: a figure is missing.
    """
    found = {
        field.name: values[field.name]
        for field in fields(RunSummary)
        if field.name in values or field.default is MISSING
    }
    bound = found.get("bound")
    return RunSummary(
        **{
            **found,
            "partition": tuple(found["partition"]),
            "stage_busy_shares": tuple(found["stage_busy_shares"]),
            "bound": None if bound is None else RunBound(**bound),
        }
    )
