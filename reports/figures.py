"""Figures, drawn from a summary and written as PNG, PDF and SVG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure

from reports.summary import Summary

if TYPE_CHECKING:
    from reports.experiment import Drawing

__all__ = ["STYLE", "as_svg", "svg_element", "write_figure"]

STYLE: dict[Any, Any] = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "path"}


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


def svg_element(figure: Figure, **options: Any) -> str:
    """A figure as an SVG element that needs no script, no font and no other file, the same at every call."""
    stream = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "gan-influence"}):
        figure.savefig(stream, format="svg", metadata={"Date": None}, **options)
    return stream.getvalue()[stream.getvalue().index("<svg") :]


def _draw(drawing: Drawing, summary: Summary) -> Figure:
    figure = Figure(figsize=drawing.size, layout="constrained")
    drawing.draw(figure, summary)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, not once a format
    return figure
