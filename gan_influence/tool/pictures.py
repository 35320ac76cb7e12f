"""Images to be cleansed: of a folder, or scikit-learn's digits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from gan_influence import datasets
from gan_influence.datasets.images import Look, image_files, looked_at, read
from gan_influence.tool.errors import FEWEST, InputError

__all__ = ["Pictures", "of_digits", "of_folder"]

_SIZES = (28, 32, 64)
_LISTED = 10


class Pictures(NamedTuple):
    """Images in [-1, 1], and what is known of them."""

    images: Float[Tensor, "n colours size size"]
    labels: tuple[str, ...] | None
    paths: tuple[str, ...] | None
    notes: tuple[str, ...] = ()

    def part(self, rows: Sequence[int] | np.ndarray) -> Pictures:
        """Some of them."""
        labels, paths = (None if own is None else tuple(own[row] for row in rows) for own in (self.labels, self.paths))
        return self._replace(images=self.images[torch.as_tensor(np.asarray(rows))], labels=labels, paths=paths)

    def classes(self, what_for: str) -> list[str]:
        """The labels there are, at least two.

        Raises:
            InputError: there are fewer.
        """
        found = sorted(set(self.labels or ()))
        if len(found) < 2:
            have = f"all images have the label {found[0]!r}" if found else "these images have no labels"
            raise InputError(f"{what_for}, but {have}: sort them into sub-folders, one a label")
        return found


def of_digits() -> Pictures:
    """All 1797 of 8 x 8 pixels."""
    digits = datasets.digits()
    return Pictures(digits.images, tuple(map(str, digits.labels.tolist())), None)


def of_folder(folder: Path, resize: int | None, skip_unreadable: bool, progress: bool) -> Pictures:
    """The images of a folder; or of its sub-folders, whose names are then their labels.

    All are grey if all files are, and else in colour.

    Raises:
        InputError: files cannot be read, or differ in size, each named; they are of a size that the built-in GAN does
            not make; there are fewer than 50.
        FileNotFoundError, ImportError: there is no such folder, no image in it, no Pillow.
    """
    if resize is not None and resize not in _SIZES:
        raise InputError(f"--resize must be 28, 32 or 64 pixels, got {resize}")
    files = _files(folder)
    bar = tqdm(files, desc="reading", unit="file", disable=not progress)
    looks = {path: looked_at(path) for path in bar}
    faulty = [look.fault for look in looks.values() if look.fault is not None]
    if faulty and not skip_unreadable:
        head = f"{len(faulty)} of {len(files)} files cannot be used:"
        raise InputError(f"{_listed(head, faulty)}\n--skip-unreadable leaves them out")
    usable = {path: look for path, look in looks.items() if look.fault is None}
    _check_number(len(usable), f"{folder} holds")
    _check_sizes(usable, resize)
    colours = 3 if any(look.coloured for look in usable.values()) else 1
    images = read(list(usable), resize, colours, torch.float32)
    names = tuple(path.relative_to(folder).as_posix() for path in usable)
    labels = tuple(path.parent.name for path in usable) if any(path.parent != folder for path in usable) else None
    notes = (_listed(f"{len(faulty)} of {len(files)} files were left out:", faulty),) if faulty else ()
    return Pictures(images, labels, names, notes)


def _files(folder: Path) -> list[Path]:
    """Those in the folder itself, or else in its sub-folders."""
    try:
        return image_files(folder)
    except FileNotFoundError:
        below = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        found = []
        for path in below:
            try:
                found += image_files(path)
            except FileNotFoundError:
                continue
        if not found:
            raise
        return found


def _check_number(n: int, what: str) -> None:
    if n < FEWEST:
        raise InputError(f"{what} {n} images that can be read, but at least {FEWEST} are needed")


def _check_sizes(looks: dict[Path, Look], resize: int | None) -> None:
    if resize is not None:
        return
    sizes: dict[tuple[int, int], list[Path]] = {}
    for path, look in looks.items():
        if look.size is not None:
            sizes.setdefault(look.size, []).append(path)
    if len(sizes) > 1:
        shown = [f"{h} x {w}: {len(paths)}, such as {paths[0].name}" for (h, w), paths in sizes.items()]
        raise InputError(
            f"{_listed(f'{len(shown)} sizes (height x width):', shown)}\n--resize 32 makes all of one size"
        )
    (height, width), *_ = sizes
    if height != width or height not in _SIZES:
        raise InputError(
            f"the images are {height} x {width} pixels, but the built-in GAN makes squares of 28, 32 or 64: --resize 32"
        )


def _listed(head: str, lines: list[str]) -> str:
    """Of many lines only the first."""
    more = [f"... and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
    return "\n  ".join([head, *lines[:_LISTED], *more])
