"""What an experiment declares. Running, storing, resuming, comparing and drawing are written once, elsewhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["RANDOM_ORDER", "Baseline", "Drawing", "Experiment", "Preset", "Quantity", "digest", "no_files"]

Settings = dict[str, Any]
Values = dict[str, dict[str, dict[str, float | None]]]  # quantity -> row -> column -> value


@dataclass(frozen=True)
class Preset:
    """Settings and number of seeds; ``as_published`` where the settings are those of the paper."""

    settings: Settings
    seeds: int
    as_published: bool


@dataclass(frozen=True)
class Baseline:
    """What cells are tested to exceed: how it is called, and its value given the settings."""

    name: str
    value: Callable[[Settings], float]


RANDOM_ORDER = Baseline("random order", lambda settings: 0.0)


@dataclass(frozen=True)
class Quantity:
    """One measured table.

    Attributes:
        table, caption: how it is called, and what its cells hold.
        decimals: to print; ``None`` prints two digits and an exponent.
        center: of the seeds.
        spread: of the seeds: 10 % and 90 % percentiles, or the standard deviation.
        above: what each cell is tested to exceed, one-sided over seeds.
        signed: print a plus sign too, as papers do for changes.
        rows, columns, column_heading: where they are not the experiment's.
        beside: the paper's table whose printed values stand beside its own, where that is called otherwise.
    """

    table: str
    caption: str
    decimals: int | None
    center: Literal["mean", "median"] = "mean"
    spread: Literal["percentiles", "std"] = "percentiles"
    above: Baseline | None = None
    signed: bool = False
    rows: Callable[[Settings], Sequence[str]] | None = None
    columns: Callable[[Settings], Sequence[str]] | None = None
    column_heading: str | None = None
    beside: str | None = None


@dataclass(frozen=True)
class Drawing:
    """One figure: its file's name, its caption, and ``draw(figure, summary)`` into a matplotlib figure of this size."""

    name: str
    caption: str
    draw: Callable[..., None]
    size: tuple[float, float] = (10, 4.4)


def no_files(settings: Settings, seeds: Sequence[int]) -> list[str]:
    """The data files of an experiment that draws all of its rows."""
    return []


@dataclass(frozen=True)
class Experiment:
    """One reproduction.

    Attributes:
        name: as on the command line.
        title, source, description: what the report says of it.
        presets: ``smoke``, ``standard`` and ``paper``.
        quantities: the tables it fills.
        rows, columns: of these tables, as the paper prints them, given the settings.
        row_heading, column_heading: what they are.
        units: names of the pieces of work that make up one seed; each is stored by itself.
        run_unit: ``(settings, seed, unit, device) -> record``, a JSON object. What a record holds under ``data`` (a
            digest of the training rows) and ``pictures`` (what figures need beyond values) goes into the seed's run.
        combine: ``(settings, {unit: record}) -> values``, as ``values[quantity][row][column]``.
        figures: the result's figures, the first being the report's main one; they are drawn from a summary (see
            :mod:`reports.summary`).
        findings: sentences on what the numbers say, each computed from the summary.
        files: ``(settings, seeds) -> paths`` of the files it reads, relative to the data folder.
        prepare: ``(settings, seed, folder, device) -> JSON object``: what all units of a seed need and is made once,
            before them, with files in ``folder`` named ``seed-SEED.*``; ``run_unit`` then has the object as its last
            argument. Where the object has a ``digest`` (of what is in the files), units made with another are not used.
        on_digits: of experiments on images, the same settings on data that need no file: ``--data digits``.
        unnamed: the presets at which it is run where no experiment is named.
        recheck: settings to change for ``--recheck``: fewer stops or variants, of which each cell is what it was.
        recheck_within: by table, the relative difference that ``--recheck`` allows instead of its own: of tables whose
            cells are float32's rounding, or what it grows to in the training of a classifier.
    """

    name: str
    title: str
    source: str
    description: str
    presets: dict[str, Preset]
    quantities: tuple[Quantity, ...]
    rows: Callable[[Settings], Sequence[str]]
    columns: Callable[[Settings], Sequence[str]]
    row_heading: str
    column_heading: str
    units: Callable[[Settings], Sequence[str]]
    run_unit: Callable[..., dict[str, Any]]
    combine: Callable[[Settings, dict[str, dict[str, Any]]], Values]
    figures: tuple[Drawing, ...]
    findings: Callable[..., list[str]]
    files: Callable[[Settings, Sequence[int]], Sequence[str]] = no_files
    prepare: Callable[[Settings, int, Path, str], dict[str, Any]] | None = None
    on_digits: Callable[[Settings], Settings] | None = None
    unnamed: tuple[str, ...] = ("smoke", "standard", "paper")
    recheck: Settings = field(default_factory=dict)
    recheck_within: Mapping[str, float] = field(default_factory=dict)


def digest(settings: Settings) -> str:
    """A short fingerprint of settings: results of different settings never mix."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
