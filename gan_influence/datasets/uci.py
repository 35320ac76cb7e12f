"""Small tables of the UCI repository."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch

from gan_influence.datasets.pixels import check_dtype
from gan_influence.datasets.tables import Table, check_columns, lines, located, numbers

__all__ = ["uci"]


class _Kind(NamedTuple):
    file: str
    separator: str | None
    columns: int
    classes: bool


_KINDS = {
    "concrete": _Kind("uci/concrete.txt", None, 8, False),
    "energy": _Kind("uci/energy.txt", None, 8, False),
    "pima": _Kind("uci/pima.csv", ",", 8, True),
}
_SOURCE = "the table can be had from archive.ics.uci.edu, one row a line, the target last"


def uci(name: str, folder: str | os.PathLike[str] | None = None, *, dtype: torch.dtype = torch.float64) -> Table:
    """One of three tables of eight columns, as it is: nothing is scaled.

    ``"concrete"``: compressive strength of 1 030 mixtures; ``"energy"``: heating load of 768 buildings; ``"pima"``:
    diabetes, 0 or 1, of 768 patients. Read from ``uci/concrete.txt``, ``uci/energy.txt`` and ``uci/pima.csv``, or the
    same with ``.gz``.

    Args:
        name: which.
        folder: that holds ``uci/``; by default the one that the variable GAN_INFLUENCE_DATA names.
        dtype: of the inputs, and of targets that are no classes.

    Returns:
        Inputs ``(n, 8)``, targets ``(n, 1)``; of ``"pima"`` labels ``(n,)``.

    Raises:
        FileNotFoundError: the file is not there.
        TypeError: ``dtype`` is no floating-point type.
        ValueError: there is no such table; a line lacks columns or holds something that is no number.
    """
    if name not in _KINDS:
        raise ValueError(f"name must be one of {', '.join(_KINDS)}, got {name!r}")
    check_dtype(dtype)
    kind = _KINDS[name]
    path = located(folder, kind.file, _SOURCE)
    rows = []
    for n, line in lines(path):
        fields = line.split(kind.separator)
        check_columns(path, n, fields, kind.columns + 1)
        rows.append(numbers(path, n, fields))
        if kind.classes and rows[-1][-1] not in (0, 1):
            raise ValueError(f"{path}, line {n}: the label must be 0 or 1, got {fields[-1]}")
    table = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), kind.columns + 1)
    targets = table[:, -1].long() if kind.classes else table[:, -1:].to(dtype)
    return Table(table[:, :-1].to(dtype), targets)
