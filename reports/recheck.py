"""Are stored numbers still those of today's code? The cheapest part of one seed is computed again and compared."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from reports import runner
from reports.experiment import Experiment, Settings
from reports.shared.workers import processes

__all__ = ["COMMITTED", "TOLERANCE", "recheck"]

COMMITTED = Path(__file__).parent / "results"
TOLERANCE = 1e-6  # relative: another processor rounds otherwise


def recheck(experiments: Mapping[str, Experiment], out: Path, device: str) -> int:
    """Compare each experiment that has a result, in ``out`` or committed, and print what came of it.

    Returns:
        1 where a number differs by more than the tolerance, else 0.
    """
    worst = 0.0
    for name, experiment in experiments.items():
        path = next((path for path in (out / name / "result.json", COMMITTED / f"{name}.json") if path.exists()), None)
        if path is None:
            tqdm.write(f"{name:22} there is no result to compare with")
            continue
        result = json.loads(path.read_text())
        if not result["runs"]:
            tqdm.write(f"{name:22} {path} holds no finished seed")
            continue
        stored, again = result["runs"][0], _again(experiment, result, device)
        cells = list(_shared_cells(stored["values"], again["values"], experiment.recheck_within))
        excess, off, cell, before, now = max(cells, default=(math.inf, math.inf, "no cell", None, None))
        worst = max(worst, excess)
        how = "identical" if off == 0 else f"agrees to {off:.0e}"
        if excess > 1:
            how = f"DIFFERS by up to {off:.1e} ({cell}: {before} stored, {now} now)"
        where = "" if stored["processor"] == again["processor"] else f", on another processor ({stored['processor']})"
        tqdm.write(f"{name:22} {how}: {len(cells)} cells of seed {stored['seed']}, made by {stored['code']}{where}")
    return int(worst > 1)


def _again(experiment: Experiment, result: dict[str, Any], device: str) -> dict[str, Any]:
    """The result's first seed, or a part of it, by today's code."""
    settings: Settings = {**result["settings"], **experiment.recheck}
    part = {"recheck": replace(experiment.presets[result["preset"]], settings=settings)}
    with tempfile.TemporaryDirectory() as folder:
        again = runner.run(
            replace(experiment, presets={**experiment.presets, **part}),
            "recheck",
            [result["runs"][0]["seed"]],
            Path(folder),
            device,
            [],
            elsewhere=processes(1),
        )
    run_again: dict[str, Any] = again["runs"][0]
    return run_again


def _shared_cells(
    stored: Any, again: Any, within: Mapping[str, float]
) -> Iterator[tuple[float, float, str, float | None, float | None]]:
    """How far each cell is off, over what its table allows and relative to the larger of both numbers; which it is, and
    both."""
    for table, rows in again.items():
        for row, columns in rows.items():
            for column, value in columns.items():
                if column in stored.get(table, {}).get(row, {}):
                    before = stored[table][row][column]
                    off = _off(before, value)
                    yield off / within.get(table, TOLERANCE), off, f"{table}, {row}, {column}", before, value


def _off(one: float | None, other: float | None) -> float:
    if one is None or other is None:
        return 0.0 if one is other else math.inf
    return abs(one - other) / max(abs(one), abs(other), 1e-300) if one != other else 0.0
