"""How figures look, and figures as parts of a page."""

from __future__ import annotations

import io
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure

__all__ = ["STYLE", "svg_element"]

STYLE: dict[Any, Any] = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "path"}


def svg_element(figure: Figure, **options: Any) -> str:
    """A figure as an SVG element that needs no script, no font and no other file, the same at every call."""
    stream = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "gan-influence"}):
        figure.savefig(stream, format="svg", metadata={"Date": None}, **options)
    return stream.getvalue()[stream.getvalue().index("<svg") :]
