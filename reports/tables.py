"""Tables in the paper's layout, the published value beside each cell: CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
from typing import Any

from reports.experiment import Quantity
from reports.summary import Summary

__all__ = [
    "as_csv",
    "as_latex",
    "as_markdown",
    "measured",
    "number",
    "printed",
    "reading_note",
    "significance_note",
    "significant",
    "spread",
]


def number(value: float | None, decimals: int | None, sign: str = "") -> str:
    """A value with so many decimals, or with two digits and an exponent; an en dash where there is none.

    ``sign="+"`` prints a plus sign too.
    """
    if value is None:
        return "–"
    return f"{value:{sign}.1e}" if decimals is None else f"{value:{sign}.{decimals}f}"


def measured(cell: dict[str, Any], quantity: Quantity) -> str:
    return number(cell["measured"], quantity.decimals, "+" if quantity.signed else "")


def printed(cell: dict[str, Any], quantity: Quantity, summary: Summary) -> str:
    """The published value, marked with ≈ where it is read off a figure."""
    approximately = "≈" if summary.published.reading_error is not None and cell["published"] is not None else ""
    return approximately + number(cell["published"], quantity.decimals, "+" if quantity.signed else "")


def spread(cell: dict[str, Any], prefix: str, quantity: Quantity) -> str:
    """``(10 %) (90 %)`` or ``(standard deviation)``, or nothing."""
    names = ("std",) if quantity.spread == "std" else ("p10", "p90")
    values = [cell[f"{prefix}{name}"] for name in names]
    return "" if None in values else " ".join(f"({number(value, quantity.decimals)})" for value in values)


def significant(cell: dict[str, Any]) -> bool:
    return cell["p_value"] is not None and cell["p_value"] < 0.05


def significance_note(quantity: Quantity) -> str:
    """What bold means in this table, if anything."""
    if quantity.above is None:
        return ""
    return f"Bold: above {quantity.above.name}, one-sided t-test over seeds, p < .05."


def reading_note(summary: Summary) -> str:
    """Where the published values come from, if they are not printed as numbers."""
    error = summary.published.reading_error
    return "" if error is None else f"Published values (≈) are read off the figure, ± {error:g}: none are printed."


def as_csv(summary: Summary, cells: list[dict[str, Any]]) -> str:
    """Three lines an estimator: measured, published, verdict; a column for each of the paper's."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    published = "published" if summary.published.reading_error is None else "published (read off the figure)"
    columns: list[str] = []
    for quantity, row, line in _lines(summary, cells):
        if columns != summary.columns_of(quantity):
            columns = summary.columns_of(quantity)
            writer.writerow(["table", "row", "line", *columns])
        writer.writerow(
            [quantity.table, row, "measured", *(f"{measured(c, quantity)} {spread(c, '', quantity)}" for c in line)]
        )
        if any(c["published"] is not None for c in line):
            beside = [f"{printed(c, quantity, summary)} {spread(c, 'published_', quantity)}".strip() for c in line]
            writer.writerow([quantity.table, row, published, *beside])
            writer.writerow([quantity.table, row, "verdict", *(c["verdict"] for c in line)])
    return stream.getvalue()


def as_markdown(summary: Summary, cells: list[dict[str, Any]]) -> str:
    """One Markdown table a quantity; bold where significant, the published mean after a slash."""
    text = []
    for quantity in summary.quantities:
        columns, heading = summary.columns_of(quantity), summary.column_heading_of(quantity)
        notes = [significance_note(quantity), reading_note(summary) if _published(cells, quantity) else ""]
        text.append(
            " ".join([f"**{quantity.table}.** {quantity.caption}. {heading} runs across.", *filter(None, notes)])
        )
        text.append(f"\n| {summary.experiment.row_heading} | " + " | ".join(columns) + " |")
        text.append("|---" * (1 + len(columns)) + "|")
        for of, row, line in _lines(summary, cells):
            if of is quantity:
                text.append(f"| {row} | " + " | ".join(_markdown_cell(cell, quantity, summary) for cell in line) + " |")
        text.append("")
    return "\n".join(text)


def as_latex(summary: Summary, cells: list[dict[str, Any]]) -> str:
    """One booktabs table a quantity, to be included as it is (needs ``booktabs``)."""
    text = []
    beside = "as printed" if summary.published.reading_error is None else "read off the figure"
    for quantity in summary.quantities:
        columns = summary.columns_of(quantity)
        text += [
            r"\begin{table}",
            r"\centering\small",
            rf"\caption{{{_escape(quantity.caption)}.}}",
            rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
            r"\toprule",
            " & ".join(_escape(name) for name in [summary.experiment.row_heading, *columns]) + r" \\",
            r"\midrule",
        ]
        for of, row, line in _lines(summary, cells):
            if of is not quantity:
                continue
            text.append(" & ".join([_escape(row), *(_latex_cell(cell, quantity) for cell in line)]) + r" \\")
            if any(cell["published"] is not None for cell in line):
                values = [rf"\textit{{{_escape(printed(cell, quantity, summary))}}}" for cell in line]
                text.append(" & ".join([rf"\quad {beside}", *values]) + r" \\")
        text += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    return "\n".join(text)


def _lines(summary: Summary, cells: list[dict[str, Any]]) -> list[tuple[Quantity, str, list[dict[str, Any]]]]:
    at = {(cell["table"], cell["row"], cell["column"]): cell for cell in cells}
    return [
        (quantity, row, [at[quantity.table, row, column] for column in summary.columns_of(quantity)])
        for quantity in summary.quantities
        for row in summary.rows_of(quantity)
    ]


def _published(cells: list[dict[str, Any]], quantity: Quantity) -> bool:
    return any(cell["table"] == quantity.table and cell["published"] is not None for cell in cells)


def _markdown_cell(cell: dict[str, Any], quantity: Quantity, summary: Summary) -> str:
    value = measured(cell, quantity)
    value = f"**{value}**" if significant(cell) else value
    beside = "" if cell["published"] is None else f" / {printed(cell, quantity, summary)}"
    return f"{value} {spread(cell, '', quantity)}{beside}"


def _latex_cell(cell: dict[str, Any], quantity: Quantity) -> str:
    value = _escape(measured(cell, quantity))
    return rf"\textbf{{{value}}}" if significant(cell) else value


def _escape(text: str) -> str:
    for plain, latex in (
        ("%", r"\%"),
        ("&", r"\&"),
        ("_", r"\_"),
        ("|", "$|$"),
        (">", "$>$"),
        ("–", "--"),
        ("≈", r"$\approx$"),
    ):
        text = text.replace(plain, latex)
    return text
