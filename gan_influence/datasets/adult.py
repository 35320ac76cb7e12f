"""Adult, prepared as for SGD-influence (Hara et al. 2019, section 7.1)."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from gan_influence.datasets.pixels import check_dtype
from gan_influence.datasets.tables import Table, check_columns, lines, located, numbers

__all__ = ["adult"]

_FILES = "adult/adult-training.csv", "adult/adult-test.csv"
_SOURCE = "both files can be had from archive.ics.uci.edu, or with SGD-influence's code"
_COLUMNS = 15
_NUMBERS = (0, 2, 4, 10, 11, 12)  # age, final weight, years of education, capital gain and loss, hours a week
_FINAL_WEIGHT = 1  # of these
_WORK, _EDUCATION, _MARRIED, _OCCUPATION, _COUNTRY, _INCOME = 1, 3, 5, 6, 13, 14
_CATEGORIES = (_WORK, _EDUCATION, _MARRIED, _OCCUPATION, 7, 8, 9, _COUNTRY)  # and relationship, race, sex

_REGIONS = {
    "US": "United-States Cuba 0",
    "Western": "England Germany Canada Italy France Greece Philippines",
    "Eastern": "India Iran Cambodia Taiwan Japan Yugoslavia China Hong",
    "Polish": "South Poland Ireland Hungary Scotland Thailand Ecuador",
}
_JOINED = {  # by column; of a country that is in no region it is Poor
    _WORK: {"?": "0", "Without-pay": "Never-worked"},
    _EDUCATION: dict.fromkeys("1st-4th 5th-6th 7th-8th 9th 10th 11th 12th".split(), "Primary"),
    _MARRIED: {"Married-AF-spouse": "Married-civ-spouse"},
    _OCCUPATION: {"?": "0", "Armed-Forces": "0"},
    _COUNTRY: {"?": "US"} | {one: region for region, names in _REGIONS.items() for one in names.split()},
}


def adult(folder: str | os.PathLike[str] | None = None, *, dtype: torch.dtype = torch.float64) -> Table:
    """All 48 842 rows of both files, categories as columns of 0 and 1; not standardised.

    First come six numbers, of which ``log(1 + x)`` is taken of the final weight, then eight categories, each one's
    values in alphabetical order. As in the authors' code some are joined first: school grades 1 to 12, working without
    pay and never, marriage in and out of the army, soldiers and unknown occupations; countries are in five groups.

    Read from ``adult/adult-training.csv`` and ``adult/adult-test.csv``, or the same with ``.gz``; lines without commas,
    as the second begins with, are passed over.

    Args:
        folder: that holds ``adult/``; by default the one that the variable GAN_INFLUENCE_DATA names.
        dtype: of the inputs.

    Returns:
        Inputs ``(n, columns)``, and labels ``(n,)``: 1 for more than 50 000 dollars a year.

    Raises:
        FileNotFoundError: a file is not there.
        TypeError: ``dtype`` is no floating-point type.
        ValueError: a line lacks columns, holds something that is no number, or another income than the two.
    """
    check_dtype(dtype)
    rows = [row for file in _FILES for row in _rows(located(folder, file, _SOURCE))]
    columns = [torch.tensor([values for values, _, _ in rows], dtype=torch.float64).reshape(len(rows), len(_NUMBERS))]
    columns[0][:, _FINAL_WEIGHT] = columns[0][:, _FINAL_WEIGHT].log1p()
    for k in range(len(_CATEGORIES)):
        of_rows = [categories[k] for _, categories, _ in rows]
        place = {value: j for j, value in enumerate(sorted(set(of_rows)))}
        chosen = torch.tensor([place[value] for value in of_rows], dtype=torch.long)
        columns.append(torch.nn.functional.one_hot(chosen, len(place)).double())
    return Table(torch.cat(columns, dim=1).to(dtype), torch.tensor([label for _, _, label in rows], dtype=torch.long))


def _rows(path: Path) -> list[tuple[list[float], list[str], int]]:
    """The numbers, the categories and the label of each."""
    rows = []
    for n, line in lines(path):
        if "," not in line:
            continue
        fields = [field.strip() for field in line.split(",")]
        check_columns(path, n, fields, _COLUMNS)
        income = fields[_INCOME].removesuffix(".")
        if income not in ("<=50K", ">50K"):
            raise ValueError(f"{path}, line {n}: the income must be <=50K or >50K, got {fields[_INCOME]!r}")
        categories = [_joined(k, fields[k]) for k in _CATEGORIES]
        rows.append((numbers(path, n, [fields[k] for k in _NUMBERS]), categories, int(income == ">50K")))
    return rows


def _joined(column: int, value: str) -> str:
    return _JOINED.get(column, {}).get(value, "Poor" if column == _COUNTRY else value)
