"""CIFAR-10, from files of its images in NumPy's form."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from gan_influence.datasets.files import VARIABLE, existing, given_folder
from gan_influence.datasets.labelled import LabelledImages
from gan_influence.datasets.pixels import as_images, check_dtype

__all__ = ["CIFAR10_NAMES", "cifar10"]

CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_SPLITS = ("train", "test")
_SHAPE = (32, 32, 3)
_SOURCE = "make it of CIFAR-10's Python version, which can be had from cs.toronto.edu/~kriz/cifar.html"


def cifar10(
    split: str, folder: str | os.PathLike[str] | None = None, *, dtype: torch.dtype = torch.float32
) -> LabelledImages:
    """CIFAR-10's colour images (Krizhevsky 2009) of 32 x 32 pixels, with labels, or as many of them as a file holds.

    Read from ``cifar10/{train,test}.npz`` below ``folder``, or else the folder that GAN_INFLUENCE_DATA names: arrays
    ``images``, uint8 ``(n, 32, 32, 3)``, and ``labels``, ``(n,)``. Nothing is downloaded.

    Args:
        split: "train" or "test".
        folder: that holds ``cifar10/``.
        dtype: of the images; ``torch.uint8`` leaves the levels 0 ... 255 as they are, for
            :func:`gan_influence.datasets.as_images` to scale where they are used.

    Returns:
        Images ``(n, 3, 32, 32)`` in [-1, 1], p of 0 ... 255 being p / 127.5 - 1; labels ``(n,)`` of 0 ... 9, of which
        ``CIFAR10_NAMES`` has the names.

    Raises:
        FileNotFoundError: the file is not there, or no folder is named.
        TypeError: ``dtype`` is neither a floating-point type nor uint8.
        ValueError: there is no such split; the file is damaged or holds something else.
    """
    if split not in _SPLITS:
        raise ValueError(f"split must be {' or '.join(map(repr, _SPLITS))}, got {split!r}")
    if dtype != torch.uint8:
        check_dtype(dtype)
    pixels, labels = _read(_path(split, given_folder(folder)))
    levels = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return LabelledImages(levels if dtype == torch.uint8 else as_images(levels, dtype), labels)


def _path(split: str, folder: Path | None) -> Path:
    if folder is None:
        raise FileNotFoundError(
            f"cifar10/{split}.npz is looked for below folder=, or the folder that the environment variable "
            f"{VARIABLE} names: name one; {_SOURCE}"
        )
    return existing(folder, Path("cifar10", f"{split}.npz"), "images", _SOURCE)


def _read(path: Path) -> tuple[UInt8[np.ndarray, "n 32 32 3"], Int[Tensor, " n"]]:
    try:
        with path.open("rb") as file, np.load(file) as arrays:  # given the path, it would leave a damaged file open
            found = {name: arrays[name] for name in arrays.files if name in ("images", "labels")}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged, or no .npz file ({error}): copy it anew") from error
    for name in ("images", "labels"):
        if name not in found:
            raise ValueError(f"{path} holds no array {name!r}")
    pixels, labels = found["images"], found["labels"]
    if pixels.dtype != np.uint8 or pixels.shape[1:] != _SHAPE or len(pixels) == 0:
        raise ValueError(f"{path}: images are {pixels.dtype} of shape {pixels.shape}, expected uint8 (n, 32, 32, 3)")
    if labels.shape != pixels.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{path}: labels are {labels.dtype} of shape {labels.shape}, expected ({len(pixels)},) integers"
        )
    wrong = np.flatnonzero((labels < 0) | (labels > 9))
    if len(wrong):
        raise ValueError(f"{path}: labels[{wrong[0]}] is {labels[wrong[0]]}, but CIFAR-10's labels are 0 to 9")
    return pixels, torch.from_numpy(labels.astype(np.int64))
