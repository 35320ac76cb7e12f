"""Curves of a summary's cells along its columns, where these are times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from reports.summary import Summary

__all__ = ["LINE", "PRINTED", "along", "draw_chance", "times", "times_across"]

LINE: dict[str, Any] = {"markersize": 4, "linewidth": 1.4}
PRINTED: dict[str, Any] = {"markersize": 5, "linewidth": 1, "alpha": 0.8}


def times(summary: Summary) -> list[int]:
    """The columns: steps trained, or epochs traced back."""
    return [int(column) for column in summary.columns]


def along(
    summary: Summary, value: Callable[..., float | None], quantity: str, row: str
) -> Float[np.ndarray, " columns"]:
    """``value(quantity, row, column)`` of every column, NaN where there is none."""
    values = [value(quantity, row, column) for column in summary.columns]
    return np.array([np.nan if one is None else one for one in values])


def draw_chance(axes: Any, summary: Summary, quantity: str, row: str) -> None:
    """What a random order gives on average."""
    chance = along(summary, summary.mean, quantity, row)
    axes.plot(times(summary), chance, "--", color="0.5", linewidth=1, label="random order (expectation)")


def times_across(axes: Any, summary: Summary, label: str) -> None:
    """The columns along a logarithmic axis."""
    axes.set_xscale("log")
    axes.set_xticks(times(summary), summary.columns)
    axes.xaxis.minorticks_off()
    axes.set_xlabel(label)
    axes.grid(alpha=0.25)
