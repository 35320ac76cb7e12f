"""Tables in the paper's layout, the published value beside each cell: CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
from typing import Any

from reports.experiment import Quantity
from reports.summary import Summary

__all__ = ["as_csv", "as_latex", "as_markdown", "number", "significant", "spread"]


def number(value: float | None, decimals: int | None) -> str:
    """A value with so many decimals, or with two digits and an exponent; an en dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.1e}" if decimals is None else f"{value:.{decimals}f}"


def spread(cell: dict[str, Any], prefix: str, decimals: int | None) -> str:
    """``(10 %) (90 %)``, or nothing."""
    low, high = cell[f"{prefix}p10"], cell[f"{prefix}p90"]
    return "" if low is None else f"({number(low, decimals)}) ({number(high, decimals)})"


def as_csv(summary: Summary, cells: list[dict[str, Any]]) -> str:
    """Three lines an estimator: measured, published, verdict; a column for each of the paper's."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["table", "row", "line", *summary.columns])
    for quantity, row, line in _lines(summary, cells):
        d = quantity.decimals
        writer.writerow(
            [quantity.table, row, "measured", *(f"{number(c['measured'], d)} {spread(c, '', d)}" for c in line)]
        )
        if any(c["published"] is not None for c in line):
            printed = [f"{number(c['published'], d)} {spread(c, 'published_', d)}".strip() for c in line]
            writer.writerow([quantity.table, row, "published", *printed])
            writer.writerow([quantity.table, row, "verdict", *(c["verdict"] for c in line)])
    return stream.getvalue()


def as_markdown(summary: Summary, cells: list[dict[str, Any]]) -> str:
    """One Markdown table a quantity; bold where significantly above random order, the printed mean after a slash."""
    text = []
    for quantity in summary.experiment.quantities:
        text.append(f"**{quantity.table}.** {quantity.caption}. {summary.experiment.column_heading} runs across.\n")
        text.append(f"| {summary.experiment.row_heading} | " + " | ".join(summary.columns) + " |")
        text.append("|---" * (1 + len(summary.columns)) + "|")
        for of, row, line in _lines(summary, cells):
            if of is quantity:
                text.append(f"| {row} | " + " | ".join(_markdown_cell(cell, quantity) for cell in line) + " |")
        text.append("")
    return "\n".join(text)


def as_latex(summary: Summary, cells: list[dict[str, Any]]) -> str:
    """One booktabs table a quantity, to be included as it is (needs ``booktabs``)."""
    text = []
    for quantity in summary.experiment.quantities:
        text += [
            r"\begin{table}",
            r"\centering\small",
            rf"\caption{{{_escape(quantity.caption)}.}}",
            rf"\begin{{tabular}}{{l{'r' * len(summary.columns)}}}",
            r"\toprule",
            " & ".join([summary.experiment.row_heading, *summary.columns]) + r" \\",
            r"\midrule",
        ]
        for of, row, line in _lines(summary, cells):
            if of is not quantity:
                continue
            measured = [_latex_cell(cell, quantity) for cell in line]
            text.append(" & ".join([_escape(row), *measured]) + r" \\")
            if any(cell["published"] is not None for cell in line):
                printed = [rf"\textit{{{number(cell['published'], quantity.decimals)}}}" for cell in line]
                text.append(" & ".join([r"\quad as printed", *printed]) + r" \\")
        text += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    return "\n".join(text)


def _lines(summary: Summary, cells: list[dict[str, Any]]) -> list[tuple[Quantity, str, list[dict[str, Any]]]]:
    at = {(cell["table"], cell["row"], cell["column"]): cell for cell in cells}
    return [
        (quantity, row, [at[quantity.table, row, column] for column in summary.columns])
        for quantity in summary.experiment.quantities
        for row in summary.rows
    ]


def significant(cell: dict[str, Any]) -> bool:
    return cell["p_value"] is not None and cell["p_value"] < 0.05


def _markdown_cell(cell: dict[str, Any], quantity: Quantity) -> str:
    measured = number(cell["measured"], quantity.decimals)
    measured = f"**{measured}**" if significant(cell) else measured
    printed = "" if cell["published"] is None else f" / {number(cell['published'], quantity.decimals)}"
    return f"{measured} {spread(cell, '', quantity.decimals)}{printed}"


def _latex_cell(cell: dict[str, Any], quantity: Quantity) -> str:
    measured = number(cell["measured"], quantity.decimals).replace("–", "--")
    return rf"\textbf{{{measured}}}" if significant(cell) else measured


def _escape(text: str) -> str:
    for plain, latex in (("%", r"\%"), ("&", r"\&"), ("_", r"\_"), ("|", "$|$"), (">", "$>$")):
        text = text.replace(plain, latex)
    return text
