"""From the runs of an experiment to its cells."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reports.statistics import bootstrap_interval, p_above, verdict

if TYPE_CHECKING:
    from reports.experiment import Experiment, Quantity

__all__ = ["Published", "Summary", "load_published"]

PUBLISHED_FOLDER = Path(__file__).parent / "published"


@dataclass(frozen=True)
class Published:
    """A paper's printed numbers, as data; ``reading_error`` where they are read off a figure instead."""

    source: str
    decimals: int
    cells: dict[tuple[str, str, str], dict[str, Any]]
    reading_error: float | None = None

    @property
    def rounding(self) -> float:
        """How far a number may be from what was printed or drawn, with room for the rounding of that."""
        return (0.5 * 10**-self.decimals if self.reading_error is None else self.reading_error) + 1e-9


def load_published(name: str) -> Published:
    """The printed values of an experiment, from ``reports/published``; none where the papers have none."""
    if not (PUBLISHED_FOLDER / f"{name}.json").exists():
        return Published("", 2, {})
    content = json.loads((PUBLISHED_FOLDER / f"{name}.json").read_text())
    cells = {(cell["table"], cell["row"], cell["column"]): cell for cell in content["cells"]}
    return Published(content["source"], content["decimals"], cells, content.get("reading_error"))


class Summary:
    """The runs of one experiment, cell by cell, beside the printed values.

    Args:
        experiment: what was run.
        result: a stored result, with ``preset``, ``settings`` and ``runs``.
    """

    def __init__(self, experiment: Experiment, result: dict[str, Any]):
        self.experiment = experiment
        self.settings = result["settings"]
        self.comparable = experiment.presets[result["preset"]].as_published
        self.rows = list(experiment.rows(result["settings"]))
        self.columns = list(experiment.columns(result["settings"]))
        self.runs = [run for run in result["runs"] if "values" in run]
        self.wanted = len(result["runs"])
        self.diverged = [run for run in result["runs"] if "diverged" in run]
        self.published = load_published(experiment.name)

    @property
    def quantities(self) -> list[Quantity]:
        """The experiment's tables that have rows at these settings."""
        return [quantity for quantity in self.experiment.quantities if self.rows_of(quantity)]

    def rows_of(self, quantity: Quantity) -> list[str]:
        """The table's rows, but for those that the experiment has gained since its runs: no run has a value there."""
        rows = self.rows if quantity.rows is None else quantity.rows(self.settings)
        return [row for row in rows if not self.runs or any(row in run["values"][quantity.table] for run in self.runs)]

    def columns_of(self, quantity: Quantity) -> list[str]:
        return self.columns if quantity.columns is None else list(quantity.columns(self.settings))

    def column_heading_of(self, quantity: Quantity) -> str:
        return quantity.column_heading or self.experiment.column_heading

    def values(self, table: str, row: str, column: str) -> list[float]:
        """The cell's value of every seed that has the row, and a finite value there."""
        found = [run["values"][table][row][column] for run in self.runs if row in run["values"][table]]
        return [value for value in found if value is not None and np.isfinite(value)]

    def mean(self, table: str, row: str, column: str) -> float | None:
        values = self.values(table, row, column)
        return float(np.mean(values)) if values else None

    def median(self, table: str, row: str, column: str) -> float | None:
        values = self.values(table, row, column)
        return float(np.median(values)) if values else None

    def percentiles(self, table: str, row: str, column: str) -> tuple[float, float]:
        """The 10 % and 90 % percentiles over seeds."""
        values = self.values(table, row, column)
        low, high = np.percentile(values, [10, 90]) if values else (np.nan, np.nan)
        return float(low), float(high)

    def std(self, table: str, row: str, column: str) -> float | None:
        """The sample standard deviation over seeds; ``None`` for fewer than two."""
        values = self.values(table, row, column)
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    def published_mean(self, table: str, row: str, column: str) -> float | None:
        cell = self.published.cells.get((table, row, column))
        return None if cell is None else cell["value"]

    def cells(self) -> list[dict[str, Any]]:
        """Every cell of every table, row by row as the paper prints them."""
        return [
            self._cell(quantity, row, column)
            for quantity in self.experiment.quantities
            for row in self.rows_of(quantity)
            for column in self.columns_of(quantity)
        ]

    def _cell(self, quantity: Quantity, row: str, column: str) -> dict[str, Any]:
        values = self.values(quantity.table, row, column)
        printed = self.published.cells.get((quantity.beside or quantity.table, row, column), {})
        low, high = bootstrap_interval(values, quantity.center) if values else (None, None)
        p10, p90 = self.percentiles(quantity.table, row, column) if values else (None, None)
        p_value = p_above(values, quantity.above.value(self.settings)) if quantity.above else None
        center = self.mean if quantity.center == "mean" else self.median
        value, spread = printed.get("value"), _printed_spread(printed)
        return {
            "table": quantity.table,
            "row": row,
            "column": column,
            "published": value,
            "measured": center(quantity.table, row, column),
            "low": low,
            "high": high,
            "verdict": verdict(low, high, value, spread, self.published.rounding, self.comparable, len(values)),
            "p10": p10,
            "p90": p90,
            "published_p10": printed.get("p10"),
            "published_p90": printed.get("p90"),
            "p_value": p_value,
            "seeds": len(values),
            **(self._std_of(quantity, row, column, printed) if quantity.spread == "std" else {}),
        }

    def _std_of(self, quantity: Quantity, row: str, column: str, printed: dict[str, Any]) -> dict[str, float | None]:
        return {"std": self.std(quantity.table, row, column), "published_std": printed.get("std")}


def _printed_spread(printed: dict[str, Any]) -> tuple[float, float] | None:
    """The range over the paper's seeds: the percentiles or the mean ± one standard deviation, whichever is printed."""
    if "p10" in printed:
        return printed["p10"], printed["p90"]
    if "std" in printed:
        return printed["value"] - printed["std"], printed["value"] + printed["std"]
    return None
