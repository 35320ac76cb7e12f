"""The report: one self-contained HTML page for all experiments."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from reports.data import DIGITS, on_digits
from reports.experiment import Experiment, Quantity
from reports.experiments import EXPERIMENTS
from reports.figures import as_svg, write_figure
from reports.shared.store import write_text
from reports.statistics import VERDICT_RULE
from reports.summary import Summary
from reports.tables import (
    as_csv,
    as_latex,
    as_markdown,
    measured,
    number,
    printed,
    reading_note,
    significance_note,
    significant,
    spread,
)

__all__ = ["committed_result", "write_experiment", "write_page"]

RESULTS = Path(__file__).parent / "results"
TEMPLATES = Path(__file__).parent / "templates"


def committed_result(name: str) -> dict[str, Any] | None:
    """The result that the repository keeps of an experiment, if it keeps one."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def write_experiment(experiment: Experiment, result: dict[str, Any], folder: Path) -> None:
    """``table.csv``, ``table.md``, ``table.tex`` and the figures, as PNG and PDF, of one result."""
    summary = Summary(experiment, result)
    cells = result["cells"]
    write_text(folder / "table.csv", as_csv(summary, cells))
    write_text(folder / "table.md", as_markdown(summary, cells))
    write_text(folder / "table.tex", as_latex(summary, cells))
    for drawing in experiment.figures:
        write_figure(drawing, summary, folder)


def write_page(results: dict[str, dict[str, Any]], path: Path) -> None:
    """The page: every experiment, as run now and as committed, and the committed claims ledger."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    sections = [_section(experiment, results.get(name)) for name, experiment in EXPERIMENTS.items()]
    ledger = json.loads((RESULTS / "ledger" / "ledger.json").read_text())
    counts = Counter(entry["verdict"] for entry in ledger)
    page = environment.get_template("index.html").render(
        sections=sections, rule=VERDICT_RULE, ledger=ledger, counts=counts
    )
    write_text(path, page)


def _section(experiment: Experiment, result: dict[str, Any] | None) -> dict[str, Any]:
    kept = committed_result(experiment.name)
    blocks = [] if result is None else [_block(experiment, result, "This run")]
    if kept is not None and (result is None or not _same(_values(result), _values(kept))):
        blocks.append(_block(experiment, kept, "Committed result"))
    return {"experiment": experiment, "blocks": blocks, "agreement": _agreement(result, kept)}


def _is_on_digits(experiment: Experiment, result: dict[str, Any]) -> bool:
    if experiment.on_digits is None:
        return False
    settings = experiment.presets[result["preset"]].settings
    return settings != result["settings"] and experiment.on_digits(settings) == result["settings"]


def _repeat(experiment: Experiment, result: dict[str, Any], digits: bool) -> list[str]:
    """The commands that run the very seeds again: one for each stretch of consecutive ones."""
    command = f"python -m reports {experiment.name} --preset {result['preset']}"
    if digits:
        command += f" --data {DIGITS}"
    seeds = sorted(run["seed"] for run in result["runs"])
    firsts = [seed for seed in seeds if seed - 1 not in seeds]
    lasts = [seed for seed in seeds if seed + 1 not in seeds]
    stretches = zip(firsts, lasts, strict=True)
    return [f"{command} --seeds {f'{first}-{last}' if first else last + 1}" for first, last in stretches]


def _block(experiment: Experiment, result: dict[str, Any], heading: str) -> dict[str, Any]:
    digits = _is_on_digits(experiment, result)
    if digits:  # nothing printed stands beside it
        experiment = on_digits(experiment)
    summary = Summary(experiment, result)
    tables = [_table(quantity, result["cells"], summary) for quantity in summary.quantities]
    verdicts: dict[str, int] = {}
    twice = {quantity.table for quantity in experiment.quantities if quantity.beside}  # a printed cell counts once
    for cell in result["cells"]:
        if cell["verdict"] and cell["table"] not in twice:
            verdicts[cell["verdict"]] = verdicts.get(cell["verdict"], 0) + 1
    return {
        "heading": heading,
        "result": result,
        "repeat": _repeat(experiment, result, digits),
        "seeds": summary.wanted,
        "tables": tables,
        "verdicts": verdicts,
        "differing": [
            shown for table in tables for _, line in table["lines"] for shown in line if shown["verdict"] == "differs"
        ],
        "reading": reading_note(summary),
        "diverged": summary.diverged,
        "findings": experiment.findings(summary) if summary.runs else [],
        "figures": [
            (Markup(as_svg(drawing, summary)), drawing.caption) for drawing in experiment.figures if summary.runs
        ],
    }


def _table(quantity: Quantity, cells: list[dict[str, Any]], summary: Summary) -> dict[str, Any]:
    own = {(cell["row"], cell["column"]): cell for cell in cells if cell["table"] == quantity.table}
    columns = summary.columns_of(quantity)
    return {
        "quantity": quantity,
        "columns": columns,
        "column_heading": summary.column_heading_of(quantity),
        "bold": significance_note(quantity),
        "published": any(cell["published"] is not None for cell in own.values()),
        "lines": [
            (row, [_shown(own[row, column], quantity, summary) for column in columns])
            for row in summary.rows_of(quantity)
        ],
    }


def _shown(cell: dict[str, Any], quantity: Quantity, summary: Summary) -> dict[str, Any]:
    finer = None if quantity.decimals is None else quantity.decimals + 1
    return {
        **cell,
        "shown": measured(cell, quantity),
        "spread": spread(cell, "", quantity),
        "printed": printed(cell, quantity, summary),
        "printed_spread": spread(cell, "published_", quantity),
        "column_heading": summary.column_heading_of(quantity),
        "significant": significant(cell),
        "interval": "" if cell["low"] is None else f"[{number(cell['low'], finer)}, {number(cell['high'], finer)}]",
    }


def _agreement(result: dict[str, Any] | None, kept: dict[str, Any] | None) -> str | None:
    """Do the seeds that this run shares with the committed result give the same numbers?"""
    if result is None or kept is None or kept["settings_digest"] != result["settings_digest"]:
        return None
    ours, theirs = _values(result), _values(kept)
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        return None
    same = [seed for seed in shared if _same(ours[seed], theirs[seed])]
    return f"{len(same)} of {len(shared)} seeds of this run give the committed values (to 1e-6, relative or absolute)."


def _values(result: dict[str, Any]) -> dict[int, Any]:
    return {run["seed"]: run["values"] for run in result["runs"] if "values" in run}


def _same(one: Any, other: Any) -> bool:
    """Equal numbers, to 1e-6, in the same places."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if one is None or other is None:
        return one is other
    return abs(one - other) <= 1e-6 * max(1.0, abs(one), abs(other))
