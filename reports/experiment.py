"""What an experiment declares. Running, storing, resuming, comparing and drawing are written once, elsewhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Experiment", "Preset", "Quantity", "digest"]

Settings = dict[str, Any]
Values = dict[str, dict[str, dict[str, float | None]]]  # quantity -> row -> column -> value


@dataclass(frozen=True)
class Preset:
    """Settings and number of seeds; ``as_published`` where the settings are those of the paper."""

    settings: Settings
    seeds: int
    as_published: bool


@dataclass(frozen=True)
class Quantity:
    """One measured table: how it is called, averaged over seeds and printed (``decimals=None``: with an exponent)."""

    table: str
    caption: str
    decimals: int | None
    center: str = "mean"
    test_above_zero: bool = False


@dataclass(frozen=True)
class Experiment:
    """One reproduction.

    Attributes:
        name: as on the command line.
        title, source, description: what the report says of it.
        caption: of its figure.
        presets: ``smoke``, ``standard`` and ``paper``.
        quantities: the tables it fills.
        rows, columns: of these tables, as the paper prints them, given the settings.
        row_heading, column_heading: what they are.
        units: names of the pieces of work that make up one seed; each is stored by itself.
        run_unit: ``(settings, seed, unit, device) -> record``, a JSON object.
        combine: ``(settings, {unit: record}) -> values``, as ``values[quantity][row][column]``.
        draw: draws the result's figure into a matplotlib figure, given a summary (see :mod:`reports.summary`).
        findings: sentences on what the numbers say, each computed from the summary.
    """

    name: str
    title: str
    source: str
    description: str
    caption: str
    presets: dict[str, Preset]
    quantities: tuple[Quantity, ...]
    rows: Callable[[Settings], Sequence[str]]
    columns: Callable[[Settings], Sequence[str]]
    row_heading: str
    column_heading: str
    units: Callable[[Settings], Sequence[str]]
    run_unit: Callable[[Settings, int, str, str], dict[str, Any]]
    combine: Callable[[Settings, dict[str, dict[str, Any]]], Values]
    draw: Callable[..., None]
    findings: Callable[..., list[str]]


def digest(settings: Settings) -> str:
    """A short fingerprint of settings: results of different settings never mix."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
