"""Take over what was done of an experiment elsewhere: finished units of work, and finished seeds."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from reports.experiment import Experiment
from reports.runner import made_by, result_identity, runs_in, unit_identity
from reports.shared.store import ForeignResultError, read_sealed, write_sealed

__all__ = ["ensure_mergeable", "merge"]

OF_A_SEED = re.compile(r"seed-(?P<seed>\d+)\.(?P<unit>.+)\.(?P<suffix>\w+)")


def ensure_mergeable(folders: Sequence[Path], names: Sequence[str], out: Path) -> None:
    """Check that each folder is one that ``--out`` named, with something of one of these experiments.

    Raises:
        SystemExit: one is no such folder, or is ``out`` itself.
    """
    for folder in folders:
        if not folder.is_dir():
            raise SystemExit(f"--merge {folder}: there is no such folder")
        if folder.resolve() == out.resolve():
            raise SystemExit(f"--merge {folder}: it is the folder of --out itself; name those of other runs")
        if not any(_is_of_an_experiment(folder / name) for name in names):
            instead = f"name {folder.parent}" if _is_of_an_experiment(folder) else "name a folder that --out named"
            raise SystemExit(
                f"--merge {folder}: it holds neither EXPERIMENT/result.json nor EXPERIMENT/units of "
                f"{' or '.join(names)}; {instead}"
            )


def merge(experiment: Experiment, preset: str, folders: Sequence[Path], out: Path, device: str) -> list[dict[str, Any]]:
    """Copy what is missing in ``out`` of an experiment's units, and return the seeds that are finished elsewhere.

    Units must come from the same settings, packages and kind of device, since one seed is made of them; finished seeds
    may come from another device and other versions of the packages. Each carries their names, and its code's. What
    is damaged or of something else is named and left.

    Args:
        experiment, preset: what is run.
        folders: other runs' ``--out``.
        out: this run's.
        device: ``cpu`` or ``cuda``.

    Returns:
        One run a seed, the first folder's where several have it, to be given to :func:`reports.runner.run`.
    """
    settings = experiment.presets[preset].settings
    maker, identity = made_by(settings, device), result_identity(experiment, settings)
    runs: dict[int, dict[str, Any]] = {}
    for folder in (folder / experiment.name for folder in folders):
        if not folder.exists():
            continue
        units = folder / "units" / maker
        copied = _copy_units(units, out / experiment.name / "units" / maker, experiment.units(settings))
        finished = _finished_seeds(folder / "result.json", identity)
        runs = {**finished, **runs}
        seeds = ", ".join(map(str, finished)) or "none"
        tqdm.write(f"merged from {folder}: {copied} units of work copied; finished seeds there: {seeds}")
    return list(runs.values())


def _is_of_an_experiment(folder: Path) -> bool:
    return (folder / "result.json").is_file() or (folder / "units").is_dir()


def _finished_seeds(path: Path, identity: dict[str, str]) -> dict[int, dict[str, Any]]:
    """The result's runs, each with the device, the processor and the packages that it was computed on."""
    if not path.exists():
        return {}
    try:
        runs = runs_in(path, identity)
    except ForeignResultError as error:
        tqdm.write(f"{path} is left: {error}")
        return {}
    return {run["seed"]: run for run in runs}


def _copy_units(theirs: Path, ours: Path, units: Sequence[str]) -> int:
    """Copy the units that are missing, and before them what was prepared for their seeds; return how many units."""
    if not theirs.is_dir():
        makers = ", ".join(sorted(path.name for path in theirs.parent.glob("*")))
        if makers:
            tqdm.write(f"{theirs.parent} has units of other settings, packages or kind of device only: {makers}")
        return 0
    ours.mkdir(parents=True, exist_ok=True)
    unit_files: list[tuple[Path, re.Match[str]]] = []
    prepared: list[tuple[Path, re.Match[str]]] = []
    for path in sorted(theirs.iterdir()):
        match = OF_A_SEED.fullmatch(path.name)
        if match and ".set-aside-" not in path.name:
            (unit_files if match["suffix"] == "json" else prepared).append((path, match))
    apart = {match["seed"] for path, match in prepared if not _same_after_copying(path, ours / path.name)}
    return sum(
        _copy_unit(path, ours / path.name, int(match["seed"]), match["unit"], units)
        for path, match in unit_files
        if match["seed"] not in apart and not (ours / path.name).exists()
    )


def _copy_unit(theirs: Path, ours: Path, seed: int, unit: str, units: Sequence[str]) -> bool:
    try:
        if unit not in units:
            raise ForeignResultError(f"{unit!r} is no unit of this experiment")
        write_sealed(ours, read_sealed(theirs, unit_identity(ours.parent.name, seed, unit)))
    except ForeignResultError as error:
        tqdm.write(f"{theirs} is left: {error}")
        return False
    return True


def _same_after_copying(theirs: Path, ours: Path) -> bool:
    """Copy a prepared file where there is none. Where there is another, its seed's units cannot be mixed with ours."""
    if not ours.exists():
        temporary = ours.with_name(f".{ours.name}")
        shutil.copyfile(theirs, temporary)
        os.replace(temporary, ours)
    if ours.read_bytes() == theirs.read_bytes():
        return True
    tqdm.write(
        f"{theirs} is left, and the units of its seed: {ours} is another, on which ours rest. To have theirs, remove "
        "ours and its seed's units"
    )
    return False
