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
    from reports.experiment import Experiment

__all__ = ["STYLE", "as_svg", "svg_element", "write_figure"]

STYLE: dict[Any, Any] = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "path"}


def write_figure(experiment: Experiment, summary: Summary, folder: Path) -> None:
    """``figure.png`` and ``figure.pdf`` in ``folder``."""
    with matplotlib.rc_context(STYLE):
        figure = _draw(experiment, summary)
        figure.savefig(folder / "figure.png", dpi=200)
        figure.savefig(folder / "figure.pdf", metadata={"CreationDate": None})


def as_svg(experiment: Experiment, summary: Summary) -> str:
    """The same figure as an SVG element, for a page that needs no other file."""
    with matplotlib.rc_context(STYLE):
        return svg_element(_draw(experiment, summary))


def svg_element(figure: Figure, **options: Any) -> str:
    """A figure as an SVG element that needs no script, no font and no other file, the same at every call."""
    stream = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "gan-influence"}):
        figure.savefig(stream, format="svg", metadata={"Date": None}, **options)
    return stream.getvalue()[stream.getvalue().index("<svg") :]


def _draw(experiment: Experiment, summary: Summary) -> Figure:
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    experiment.draw(figure, summary)
    return figure
