"""Run an experiment: units of work in parallel processes, each stored by itself, so that a killed run resumes."""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gan_influence import DivergenceError
from reports.experiment import Experiment, Settings, digest
from reports.shared.provenance import packages_digest, provenance
from reports.shared.store import (
    ForeignResultError,
    alone_in,
    read_json,
    read_sealed,
    set_aside,
    write_json,
    write_sealed,
)
from reports.shared.workers import Workers, worker_count, worker_pool
from reports.summary import Summary

__all__ = ["FORMAT", "made_by", "result_identity", "run", "runs_in", "unit_identity"]

FORMAT = "gan-influence result 4"
MACHINE = ("device", "processor", "packages", "code")  # of a unit's record and of a run: what they were computed by
RUN_KEYS = {"seed", "seconds", "data", *MACHINE}


def run(
    experiment: Experiment,
    preset: str,
    seeds: Sequence[int] | None,
    out: Path,
    device: str,
    command: list[str],
    taken_over: Sequence[dict[str, Any]] = (),
    elsewhere: Workers | None = None,
    *,
    fresh: bool = False,
) -> dict[str, Any]:
    """Run what is missing of an experiment and store it as ``out/NAME/result.json``.

    Every unit of work is stored when it is done, every seed enters ``result.json`` when its units are: a run that was
    interrupted, in whatever way, goes on where it stopped. A ``result.json`` that is damaged, or belongs to other
    settings or another device, is set aside and named. Units and seeds that are there already are kept, whatever code
    made them, and say which. Several processes may run into one folder.

    Args:
        experiment, preset: what to run, at which settings.
        seeds: to run; by default the preset's.
        out, device, command: where to write, where to compute, and what was typed.
        taken_over: finished runs from elsewhere, for seeds that are not there yet; see :mod:`reports.merging`.
        elsewhere: ``(tasks, device) -> context manager`` of a ``concurrent.futures.Executor`` on other machines; by
            default processes here work.
        fresh: set aside what is there, and compute all anew.
    """
    settings = experiment.presets[preset].settings
    wanted = range(experiment.presets[preset].seeds) if seeds is None else seeds
    folder = out / experiment.name
    identity = {**result_identity(experiment, settings), "device": device}
    if fresh:
        for old in (folder / "result.json", folder / "units" / made_by(settings, device)):
            if old.exists():
                tqdm.write(f"{old} was set aside as {set_aside(old)}")
    there = _resume(folder / "result.json", identity)
    runs = {run["seed"]: run for run in (*taken_over, *there)}
    missing = [seed for seed in wanted if seed not in runs]
    record, begun = provenance(command, device), time.time()
    machine = machine_of(record)
    record["versions"] = {name: record["versions"][name] for name in ("python", "gan-influence")}

    def result() -> dict[str, Any]:
        kept = [runs[seed] for seed in sorted(runs)]
        whole: dict[str, Any] = {
            **identity,
            "preset": preset,
            "settings": settings,
            "provenance": {
                **record,
                **{key: _by_seed(kept, key, machine[key]) for key in MACHINE},
                "seconds": round(sum(run["seconds"] for run in kept), 1),
                "wall_seconds": round(time.time() - begun, 1),
            },
            "runs": kept,
        }
        whole["cells"] = Summary(experiment, whole).cells()
        return whole

    def stored() -> dict[str, Any]:
        with alone_in(folder):
            there = _resume(folder / "result.json", identity)
            runs.update({run["seed"]: run for run in there if run["seed"] not in runs})  # another process's
            whole = result()
            write_json(folder / "result.json", whole)
        return whole

    for seed, finished in _run_seeds(experiment, settings, missing, folder, device, machine, elsewhere):
        runs[seed] = finished
        stored()
    return stored()


def machine_of(record: dict[str, Any]) -> dict[str, str]:
    """What of a record of provenance a unit of work carries."""
    return {key: record[key] for key in MACHINE}


def result_identity(experiment: Experiment, settings: Settings) -> dict[str, str]:
    """What results must have in common for their runs to be one experiment's."""
    return {
        "format": FORMAT,
        "experiment": experiment.name,
        "settings_digest": digest(settings),
    }


def made_by(settings: Settings, device: str) -> str:
    """The settings, packages and kind of device that a unit of work comes from: the name of its folder."""
    return f"{digest(settings)}-{packages_digest()}-{device}"


def unit_identity(maker: str, seed: int, unit: str) -> dict[str, Any]:
    """What the file of a unit of work must say of itself; ``maker`` as :func:`made_by` names it."""
    return {"format": FORMAT, "made_by": maker, "seed": seed, "unit": unit}


def runs_in(path: Path, identity: dict[str, Any]) -> list[dict[str, Any]]:
    """The finished seeds of a stored result.

    Raises:
        ForeignResultError: it is damaged, or of something else.
    """
    runs = read_json(path, identity).get("runs")
    if not isinstance(runs, list) or not all(isinstance(run, dict) and run.keys() >= RUN_KEYS for run in runs):
        raise ForeignResultError(f"its runs are damaged: each must have {', '.join(sorted(RUN_KEYS))}")
    return runs


def _resume(path: Path, identity: dict[str, Any]) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        return runs_in(path, identity)
    except ForeignResultError as error:
        aside = set_aside(path)
        tqdm.write(f"{path} cannot be resumed: {error}. It was set aside as {aside}")
        return []


def _by_seed(runs: list[dict[str, Any]], key: str, here: str) -> str:
    """What the runs were computed on: one name, or several, each with its seeds; of no run, what is here."""
    seeds: dict[str, list[str]] = {}
    for run in runs:
        seeds.setdefault(run[key], []).append(str(run["seed"]))
    if len(seeds) <= 1:
        return next(iter(seeds), here)
    return "; ".join(f"{name} ({'seed' if len(own) == 1 else 'seeds'} {', '.join(own)})" for name, own in seeds.items())


def _run_seeds(
    experiment: Experiment,
    settings: Settings,
    seeds: list[int],
    folder: Path,
    device: str,
    machine: dict[str, str],
    elsewhere: Workers | None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(seed, run)`` as the units of each seed are completed.

    A seed's units wait for what it prepares. As many preparations as there are workers come first, each other one waits
    behind the units of a seed before it: a device with one worker finishes a seed before it prepares another.
    """
    units = list(experiment.units(settings))
    if not seeds or not units:
        return
    maker = made_by(settings, device)
    store = _Units(folder / "units" / maker, maker)
    store.tell(experiment.name, seeds, units, machine["code"])
    unprepared = deque(seeds)
    records: dict[int, dict[str, Any]] = {seed: {} for seed in seeds}
    total = len(seeds) * len(units)
    workers = worker_pool if elsewhere is None else elsewhere
    common = device, machine["code"], machine if elsewhere is None else None
    with workers(total, device) as pool, tqdm(total=total, desc=experiment.name, unit="unit") as bar:
        pending: dict[Future, tuple[int, str | None, dict[str, Any] | None]] = {}

        def submit_units(seed: int, prepared: dict[str, Any] | None) -> None:
            for unit in units:
                done = store.read(seed, unit, prepared)
                if done is None:
                    future = pool.submit(_unit, experiment.name, settings, seed, unit, *common, prepared)
                    future.add_done_callback(partial(store.keep_at_once, seed, unit, prepared))
                else:
                    future = Future()
                    future.set_result(done)
                pending[future] = seed, unit, prepared

        def prepare_another() -> None:
            if unprepared:
                seed = unprepared.popleft()
                pending[pool.submit(_prepared, experiment.name, settings, seed, store.folder, device)] = (
                    seed,
                    None,
                    None,
                )

        if experiment.prepare is None:
            for seed in seeds:
                submit_units(seed, None)
        else:
            bar.set_postfix_str("preparing")
            for _ in range(worker_count(total, device)):
                prepare_another()
        while pending:
            done = wait(pending, return_when=FIRST_COMPLETED).done
            for future in [one for one in pending if one in done]:
                seed, unit, prepared = pending.pop(future)
                bar.set_postfix_str(f"seed {seed}, {unit or 'prepared'}")
                if unit is None:
                    submit_units(seed, future.result())
                    prepare_another()
                    continue
                records[seed][unit] = store.keep(seed, unit, prepared, _result_of(future, experiment.name, seed, unit))
                bar.update()
                if len(records[seed]) == len(units):
                    yield seed, _combine(experiment, settings, seed, records.pop(seed))


def _result_of(future: Future, name: str, seed: int, unit: str) -> dict[str, Any]:
    try:
        result: dict[str, Any] = future.result()
    except Exception as error:
        error.add_note(f"in {name}, seed {seed}, unit {unit}")
        raise
    return result


class _Units:
    """The finished units of an experiment, each in a file of its own with a checksum."""

    def __init__(self, folder: Path, maker: str):
        self.folder, self._maker = folder, maker

    def read(self, seed: int, unit: str, prepared: dict[str, Any] | None) -> dict[str, Any] | None:
        """A finished unit; what is damaged or of something else is set aside and named."""
        path = self._path(seed, unit)
        if not path.exists():
            return None
        try:
            return read_sealed(path, self._identity(seed, unit, prepared))
        except ForeignResultError as error:
            tqdm.write(f"{path} cannot be used: {error}. It was set aside as {set_aside(path)}")
            return None

    def keep(self, seed: int, unit: str, prepared: dict[str, Any] | None, record: dict[str, Any]) -> dict[str, Any]:
        """Store a unit that is not there yet."""
        record = {**self._identity(seed, unit, prepared), **record}
        if not self._path(seed, unit).exists():
            write_sealed(self._path(seed, unit), record)
        return record

    def keep_at_once(self, seed: int, unit: str, prepared: dict[str, Any] | None, future: Future) -> None:
        """Store a unit when it is done, not when its turn comes; a disk that is full is told then."""
        if not future.cancelled() and future.exception() is None:
            with suppress(OSError):
                self.keep(seed, unit, prepared, future.result())

    def tell(self, name: str, seeds: list[int], units: list[str], code: str) -> None:
        """How many units are there, and by which code they were made."""
        codes: Counter[str] = Counter()
        for seed in seeds:
            for unit in units:
                with suppress(OSError, ValueError):
                    codes[str(json.loads(self._path(seed, unit).read_text()).get("code"))] += 1
        if codes:
            own = code.split()[0]
            by = ", ".join(
                f"{n} by {'this code' if made.split()[0] == own else made}" for made, n in sorted(codes.items())
            )
            tqdm.write(f"{name}: {sum(codes.values())} of {len(seeds) * len(units)} units are there: {by}")

    def _path(self, seed: int, unit: str) -> Path:
        return self.folder / f"seed-{seed}.{unit}.json"

    def _identity(self, seed: int, unit: str, prepared: dict[str, Any] | None) -> dict[str, Any]:
        identity = unit_identity(self._maker, seed, unit)
        if prepared is not None and "digest" in prepared:
            identity["prepared"] = prepared["digest"]
        return identity


def _combine(experiment: Experiment, settings: Settings, seed: int, records: dict[str, Any]) -> dict[str, Any]:
    run: dict[str, Any] = {"seed": seed, "seconds": round(sum(record["seconds"] for record in records.values()), 1)}
    run["data"] = next((record["data"] for record in records.values() if "data" in record), None)
    for key in MACHINE:
        run[key] = " and ".join(sorted({record[key] for record in records.values() if key in record}))
    for record in records.values():
        if "pictures" in record:
            run["pictures"] = {**run.get("pictures", {}), **record["pictures"]}
    diverged = [record["diverged"] for record in records.values() if "diverged" in record]
    return {**run, "diverged": diverged[0]} if diverged else {**run, "values": experiment.combine(settings, records)}


def _prepared(name: str, settings: Settings, seed: int, units: Path, device: str) -> dict[str, Any]:
    """In a worker: what all units of a seed need."""
    from reports.experiments import EXPERIMENTS

    prepare = EXPERIMENTS[name].prepare
    assert prepare is not None
    units.mkdir(parents=True, exist_ok=True)
    return prepare(settings, seed, units, device)


def _unit(
    name: str,
    settings: Settings,
    seed: int,
    unit: str,
    device: str,
    code: str,
    machine: dict[str, str] | None,
    prepared: dict[str, Any] | None,
) -> dict[str, Any]:
    """In a worker: one unit of work, and the machine that it was done on, which on a cluster the worker alone knows."""
    from reports.experiments import EXPERIMENTS

    machine = machine or machine_of(provenance([], device))
    if machine["code"].split()[0] != code.split()[0]:
        raise RuntimeError(
            f"this worker's code is {machine['code']}, but {code} asks for the work: give all machines one checkout"
        )
    begun = time.time()
    try:
        given = () if prepared is None else (prepared,)
        record = EXPERIMENTS[name].run_unit(settings, seed, unit, device, *given)
    except DivergenceError as error:
        record = {"diverged": str(error)}
    return {**machine, "seconds": round(time.time() - begun, 1), **record}
