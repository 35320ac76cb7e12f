"""Figures, drawn from a summary and written as PNG, PDF and SVG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure

from reports.shared.style import STYLE, svg_element
from reports.summary import Summary

if TYPE_CHECKING:
    from reports.experiment import Drawing

__all__ = ["as_svg", "write_figure"]


def write_figure(drawing: Drawing, summary: Summary, folder: Path) -> None:
    """``NAME.png`` and ``NAME.pdf`` in ``folder``."""
    with matplotlib.rc_context(STYLE):
        figure = _draw(drawing, summary)
        figure.savefig(folder / f"{drawing.name}.png", dpi=200)
        figure.savefig(folder / f"{drawing.name}.pdf", metadata={"CreationDate": None})


def as_svg(drawing: Drawing, summary: Summary) -> str:
    """The same figure as an SVG element, for a page that needs no other file."""
    with matplotlib.rc_context(STYLE):
        return svg_element(_draw(drawing, summary))


def _draw(drawing: Drawing, summary: Summary) -> Figure:
    figure = Figure(figsize=drawing.size, layout="constrained")
    drawing.draw(figure, summary)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, not once a format
    return figure
