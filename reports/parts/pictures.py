"""What figures of single runs, rather than of cells, are drawn from."""

from __future__ import annotations

from typing import Any

from reports.summary import Summary

__all__ = ["with_pictures"]


def with_pictures(summary: Summary, figure: Any) -> list[dict[str, Any]]:
    """The runs that have pictures; where none has, the figure says so."""
    runs = [run for run in summary.runs if "pictures" in run]
    if not runs:
        figure.text(0.5, 0.5, "no seed with pictures came through", ha="center")
    return runs
