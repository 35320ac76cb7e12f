"""Tables of numbers with a target each, from files of text."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from gan_influence.datasets.files import VARIABLE, existing, given_folder

__all__ = ["Table", "check_columns", "content", "lines", "located", "numbers"]


class Table(NamedTuple):
    """Rows of numbers, and each one's target: a number, or a class (int64)."""

    inputs: Float[Tensor, "n columns"]
    targets: Tensor


def located(folder: str | os.PathLike[str] | None, relative: str, source: str) -> Path:
    """The file, or the same with ``.gz``, below ``folder`` or the folder that the variable names.

    Raises:
        FileNotFoundError: it is not there, or there is no folder to look in; it says where the file can be had.
    """
    given = given_folder(folder)
    if given is None:
        raise FileNotFoundError(
            f"there is no folder to read {relative} from: give folder=, or set the environment variable {VARIABLE} to "
            f"one that holds it; {source}"
        )
    return existing(given, Path(relative), "rows", source, suffixes=("", ".gz"))


def content(path: Path) -> bytes:
    """What the file holds, unpacked."""
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, with their numbers, from 1 on."""
    for n, line in enumerate(content(path).decode().splitlines(), start=1):
        if line.strip():
            yield n, line.strip()


def numbers(path: Path, n: int, fields: list[str]) -> list[float]:
    """A line's fields as numbers.

    Raises:
        ValueError: one is none.
    """
    found = []
    for k, field in enumerate(fields):
        try:
            found.append(float(field))
        except ValueError as error:
            raise ValueError(f"{path}, line {n}: field {k + 1} must be a number, got {field!r}") from error
    return found


def check_columns(path: Path, n: int, fields: list[str], expected: int) -> None:
    """Has this line all columns?

    Raises:
        ValueError: it has not.
    """
    if len(fields) != expected:
        raise ValueError(f"{path}, line {n} has {len(fields)} columns, but there must be {expected}")
