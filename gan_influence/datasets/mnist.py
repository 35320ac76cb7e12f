"""MNIST and FashionMNIST, from files in IDX form."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from gan_influence.datasets.download import fetch, is_intact
from gan_influence.datasets.files import VARIABLE, existing, given_folder
from gan_influence.datasets.idx import read_idx
from gan_influence.datasets.labelled import LabelledImages
from gan_influence.datasets.pixels import check_dtype, scaled

__all__ = ["fashion_mnist", "mnist"]

_PREFIXES = {"train": "train", "test": "t10k"}
_SIDE = 28
_MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
_SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
_CLOTHES = "the four files can be had from github.com/zalandoresearch/fashion-mnist"
_DIGITS = "gan_influence.datasets.digits has smaller images, with nothing to download"


def mnist(
    split: str, folder: str | os.PathLike[str] | None = None, *, dtype: torch.dtype = torch.float32
) -> LabelledImages:
    """MNIST's 60 000 training or 10 000 test images (LeCun, Cortes and Burges), with labels.

    Pixels are scaled to [-1, 1], as in ICLR's code: p of 0 ... 255 becomes p / 127.5 - 1, computed in float64 and then
    rounded.

    Read from ``mnist/{train,t10k}-{images-idx3,labels-idx1}-ubyte``, or the same with ``.gz`` where that is not there,
    below ``folder``, or else the folder that the variable GAN_INFLUENCE_DATA names. With neither, the four files are
    downloaded once, into ``gan-influence/mnist`` of the user's cache ($XDG_CACHE_HOME, or ``~/.cache``), and must have
    the checksums of the originals whenever they are read from there. Files in a folder of your own are taken as they
    are, also when they hold fewer images.

    Args:
        split: "train" or "test".
        folder: that holds ``mnist/``.
        dtype: of the images.

    Returns:
        Images ``(n, 1, 28, 28)`` in [-1, 1], labels ``(n,)`` of 0 ... 9.

    Raises:
        FileNotFoundError: the files are not there, or could not be downloaded.
        TypeError: ``dtype`` is no floating-point type.
        ValueError: there is no such split; a file is damaged or holds something else; images and labels differ in
            number.
    """
    check_dtype(dtype)
    names = _names(split)
    if (given := given_folder(folder)) is None:
        return _read(*_in_cache(names), dtype)
    return _read(*_below(given, "mnist", names, f"with neither, MNIST is downloaded; {_DIGITS}"), dtype)


def fashion_mnist(
    split: str, folder: str | os.PathLike[str] | None = None, *, dtype: torch.dtype = torch.float32
) -> LabelledImages:
    """FashionMNIST's images of clothes (Xiao et al. 2017), in the form of :func:`mnist`, from ``fashion-mnist/``.

    Nothing is downloaded; files that hold fewer images are taken as they are.

    Args:
        split, folder, dtype: as of :func:`mnist`.

    Raises:
        FileNotFoundError: the files are not there, or no folder is named.
        TypeError, ValueError: as :func:`mnist` does.
    """
    check_dtype(dtype)
    names, given = _names(split), given_folder(folder)
    if given is None:
        raise FileNotFoundError(
            f"fashion-mnist/{names[0]} is looked for below folder=, or the folder that the environment variable "
            f"{VARIABLE} names: name one; {_CLOTHES}"
        )
    return _read(*_below(given, "fashion-mnist", names, _CLOTHES), dtype)


def _names(split: str) -> tuple[str, str]:
    if split not in _PREFIXES:
        raise ValueError(f"split must be {' or '.join(map(repr, _PREFIXES))}, got {split!r}")
    return f"{_PREFIXES[split]}-images-idx3-ubyte", f"{_PREFIXES[split]}-labels-idx1-ubyte"


def _read(images_path: Path, labels_path: Path, dtype: torch.dtype) -> LabelledImages:
    pixels, labels = _images(images_path), _labels(labels_path)
    if len(pixels) != len(labels):
        raise ValueError(
            f"{images_path} holds {len(pixels)} images, but {labels_path} holds {len(labels)} labels: "
            "they do not belong together"
        )
    return LabelledImages(scaled(pixels, dtype).unsqueeze(1), torch.from_numpy(labels.astype(np.int64)))


def _images(path: Path) -> UInt8[np.ndarray, "n 28 28"]:
    pixels = read_idx(path, "images")
    if pixels.shape[1:] != (_SIDE, _SIDE):
        raise ValueError(
            f"{path} holds images of {' x '.join(map(str, pixels.shape[1:]))} pixels, but MNIST's are {_SIDE} x {_SIDE}"
        )
    return pixels


def _labels(path: Path) -> UInt8[np.ndarray, " n"]:
    labels = read_idx(path, "labels")
    wrong = np.flatnonzero(labels > 9)
    if len(wrong):
        raise ValueError(f"{path}: labels[{wrong[0]}] is {labels[wrong[0]]}, but MNIST's labels are 0 to 9")
    return labels


def _below(folder: Path, data: str, names: tuple[str, str], instead: str) -> tuple[Path, Path]:
    images, labels = (
        existing(folder, Path(data, name), rows, instead, suffixes=("", ".gz"))
        for name, rows in zip(names, ("images", "labels"), strict=True)
    )
    return images, labels


def _in_cache(names: tuple[str, str]) -> tuple[Path, Path]:
    folder = _cache()
    images, labels = (folder / f"{name}.gz" for name in names)
    if not all(is_intact(path, _SHA256[path.name]) for path in (images, labels)):
        _download(folder)
    return images, labels


def _cache() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not home.is_absolute():  # such a value is to be ignored, by the XDG base directory specification
        home = Path("~/.cache").expanduser()
    return home / "gan-influence" / "mnist"


def _download(folder: Path) -> None:
    # all four, not just the split's: who downloads where there is network often computes where there is none
    try:
        for name, sha256 in _SHA256.items():
            if not is_intact(folder / name, sha256):
                fetch(folder / name, _MIRRORS, sha256)
    except OSError as error:
        raise FileNotFoundError(
            f"MNIST could not be downloaded into {folder} ({error}): set the environment variable {VARIABLE} to a "
            f"folder that holds mnist/{name} and the three other files, or give folder=; or download on a machine "
            f"with network and copy {folder} from there; {_DIGITS}"
        ) from error
