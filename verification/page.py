"""The ledger as JSON and as a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from markupsafe import Markup

from reports.shared.store import write_text
from reports.shared.style import STYLE, svg_element
from verification.claims import SECTIONS
from verification.ledger import VERDICTS, as_read

matplotlib.use("Agg")

from matplotlib.figure import Figure

__all__ = ["ledger_json", "write_errata", "write_page"]

TEMPLATES = Path(__file__).parent / "templates"


def ledger_json(entries: list[dict[str, Any]]) -> str:
    """The list of entries; a number that is not finite is written as a string, since JSON has none."""
    return json.dumps([_finite(entry) for entry in entries], indent=1, allow_nan=False) + "\n"


def write_page(entries: list[dict[str, Any]], record: dict[str, Any], out: Path) -> None:
    """``out/index.html``: every entry, grouped by section, with its formula, numbers, plot and command."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    shown = [
        {
            **entry,
            "measured": as_read(entry["measured"]),
            "expected": as_read(entry["expected"]),
            "tolerance": as_read(entry["tolerance"]),
            "largest": as_read(entry["largest"]),
            "numbers": {name: as_read(value) for name, value in entry["numbers"].items()},
            "formula": _formula(entry["formula"]),
            "plot": _plot(entry["plot"]),
        }
        for entry in entries
    ]
    sections = [
        {"title": title, "entries": mine}
        for name, title in SECTIONS.items()
        if (mine := [entry for entry in shown if entry["section"] == name])
    ]
    counts = {verdict: sum(entry["verdict"] == verdict for entry in entries) for verdict in (*VERDICTS, "error")}
    page = environment.get_template("ledger.html").render(sections=sections, counts=counts, record=record)
    write_text(out / "index.html", page)


ERRATA = {
    "tnnls": ("TNNLS", "Terashita, Ohashi and Hara, Data Cleansing for GANs (TNNLS 2025)"),
    "iclr": ("ICLR", "Terashita, Ohashi, Nonaka and Kanemaru, Influence Estimation for GANs (ICLR 2021)"),
    "neurips": ("NeurIPS", "Hara, Nitanda and Maehara, Data Cleansing for Models Trained with SGD (NeurIPS 2019)"),
    "published-code": ("published code", "the published code of TNNLS Section VI-C"),
}
"""By file name: how sources begin, and what the page is of."""


def write_errata(entries: list[dict[str, Any]], record: dict[str, Any], out: Path) -> None:
    """``out/errata-NAME.md`` for each paper: what of it is not confirmed, with witness, amendment and control."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), trim_blocks=True, lstrip_blocks=True)
    for name, (prefix, title) in ERRATA.items():
        own = [e for e in entries if e["source"].startswith(prefix) and e["verdict"] in ("corrected", "refuted")]
        page = environment.get_template("errata.md").render(entries=own, title=title, record=record)
        write_text(out / f"errata-{name}.md", page)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return value


def _formula(formula: str) -> Markup | str:
    """A formula in matplotlib's mathtext, as an SVG element that needs no script and no font."""
    if not formula:
        return ""
    figure = Figure()
    figure.text(0, 0, f"${formula}$", fontsize=11)
    return Markup(svg_element(figure, bbox_inches="tight", pad_inches=0.03, transparent=True))


def _plot(plot: dict[str, Any] | None) -> Markup | str:
    if plot is None:
        return ""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 2.9), layout="constrained")
        axes = figure.subplots()
        for curve in plot["curves"]:
            axes.plot(curve["x"], curve["y"], curve["style"], label=curve["label"], markersize=3.5, linewidth=1.2)
        axes.set_xlabel(plot["xlabel"])
        axes.set_ylabel(plot["ylabel"])
        if plot["xlog"]:
            axes.set_xscale("log")
        if plot["ylog"]:
            axes.set_yscale("log")
        axes.grid(alpha=0.25)
        if len(plot["curves"]) > 1:
            axes.legend(fontsize=7, frameon=False)
        return Markup(svg_element(figure))
