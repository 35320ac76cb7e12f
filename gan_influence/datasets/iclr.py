"""The very rows that the authors of ICLR 2021 drew."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gan_influence.checks import is_whole
from gan_influence.datasets.files import VARIABLE, existing, given_folder

__all__ = ["NormalSplits", "iclr_normal_2d"]

_AVAILABLE = 7  # of the ten repetitions
_ROWS = {"train": 10_000, "valid": 1_000, "test": 1_000}
_WITHOUT_FILES = "gan_influence.datasets.normal_2d draws rows from the same distribution, with nothing to download"


class NormalSplits(NamedTuple):
    """2D-Normal, float64."""

    train: Float[Tensor, "10000 2"]
    validation: Float[Tensor, "1000 2"]
    test: Float[Tensor, "1000 2"]


def iclr_normal_2d(repetition: int, folder: str | os.PathLike[str] | None = None) -> NormalSplits:
    """The authors' own 2D-Normal rows of one repetition of ICLR 5.1's experiment 1.

    Read from ``normal2d/set00.npz`` ... ``set06.npz``: three of the ten repetitions are lost.

    Args:
        repetition: 0 to 6.
        folder: that holds ``normal2d/``; by default the one that the variable GAN_INFLUENCE_DATA names.

    Raises:
        ValueError: there is no such repetition, or its file is damaged or holds something else.
        FileNotFoundError: the variable is not set, or the folder or file is not there.
    """
    if not is_whole(repetition) or not 0 <= repetition < _AVAILABLE:
        raise ValueError(
            f"repetition must be a whole number from 0 to {_AVAILABLE - 1}, got {repetition!r}: "
            f"only {_AVAILABLE} of the authors' ten sets of rows are available"
        )
    relative = Path("normal2d", f"set{repetition:02d}.npz")
    given = given_folder(folder)
    if given is None:
        raise FileNotFoundError(
            f"set the environment variable {VARIABLE} to the folder that holds {relative}, or give folder=; "
            f"{_WITHOUT_FILES}"
        )
    path = existing(given, relative, "rows", _WITHOUT_FILES)
    arrays = _arrays(path)
    return NormalSplits(*(_split(path, arrays, name) for name in _ROWS))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(
            path
        ) as archive:  # before NumPy, which takes other files too, and parses what it has not checked
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or no .npz file ({error}): copy it anew") from error


def _split(path: Path, arrays: dict[str, np.ndarray], name: str) -> Float[Tensor, "n 2"]:
    if name not in arrays:
        raise ValueError(f"{path} has no array {name!r}, only {', '.join(map(repr, arrays)) or 'none at all'}")
    array, expected = np.asarray(arrays[name]), (_ROWS[name], 2)
    if array.shape != expected or array.dtype != np.float64:
        raise ValueError(f"{path}: {name!r} must be float64 {expected}, got {array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{path}: {name!r} contains NaN or infinity")
    return torch.from_numpy(array)
