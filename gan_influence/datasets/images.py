"""A user's own folder of images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gan_influence.checks import is_whole
from gan_influence.datasets.pixels import check_dtype, scaled

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ImageFolder", "images"]

_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
_FORMATS = ("BMP", "JPEG", "PNG", "WEBP")
_PLAIN = {"1": "L", "L": "L", "RGB": "RGB"}
_CONVERTIBLE = {*_PLAIN, "LA", "P", "RGBA"}  # the others in such files, but for CMYK, have more than 8 bits a value
_GREY = {"1", "L", "LA"}
_TARGET = {1: "L", 3: "RGB"}


class Look(NamedTuple):
    """Height and width, whether there are colours, and what is wrong."""

    size: tuple[int, int] | None
    coloured: bool
    fault: str | None


class ImageFolder(NamedTuple):
    """Images in [-1, 1], and of each the name of its file."""

    images: Float[Tensor, "n channels height width"]
    names: tuple[str, ...]


def images(
    folder: str | os.PathLike[str],
    *,
    size: int | tuple[int, int] | None = None,
    colours: int | None = None,
    dtype: torch.dtype = torch.float32,
    enlarge: bool = True,
    colour_grey: bool = True,
) -> ImageFolder:
    """The images of a folder, sorted by name: row i is the file ``names[i]``.

    A value p of 0 ... 255 becomes p / 127.5 - 1. Read are the files that end in .bmp, .jpeg, .jpg, .png or .webp (or
    the same in capitals), except hidden ones (``.name``); sub-folders are not looked into. An image is turned as its
    EXIF orientation says; of an animation the first picture is taken. A transparent image is refused, since nothing
    says what is behind it; an alpha channel that is opaque everywhere does no harm.

    Args:
        folder: that holds the images themselves.
        size: ``(height, width)``, or one number for both, to which all are resized, with antialiasing (Lanczos) and
            without regard to their proportions. By default all must be of one size.
        colours: 1 turns all into grey levels (ITU-R 601: .299 R + .587 G + .114 B), 3 turns all into RGB; palettes are
            looked up. By default all must be of one mode, which must be black and white, grey (one channel) or RGB
            (three).
        dtype: of the images.
        enlarge: may ``size`` make an image higher or wider than it is, which adds nothing to see?
        colour_grey: may ``colours=3`` make RGB of an image that is black and white or grey?

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
        ImportError: Pillow is not installed.
        TypeError: ``dtype`` is no floating-point type.
        ValueError: an image cannot be read, is transparent or CMYK, has more than 8 bits a value, or
            differs from the first in size or mode; is smaller or grey where ``enlarge`` or ``colour_grey`` forbids it;
            a size below 1; colours other than 1 and 3.
    """
    check_dtype(dtype)
    _checked(size, colours)
    paths = image_files(folder)
    found = read(paths, size, colours, dtype, enlarge=enlarge, colour_grey=colour_grey)
    return ImageFolder(found, tuple(path.name for path in paths))


def read(
    paths: Sequence[Path],
    size: int | tuple[int, int] | None,
    colours: int | None,
    dtype: torch.dtype,
    *,
    enlarge: bool = True,
    colour_grey: bool = True,
) -> Float[Tensor, "n channels height width"]:
    """These files, as :func:`images` reads those of a folder."""
    allowed = enlarge, colour_grey
    return scaled(np.stack(list(_levels(paths, _checked(size, colours), colours, *allowed))), dtype)


def looked_at(path: Path) -> Look:
    """What a file holds, or why it cannot be read when it is converted."""
    _require_pillow()
    try:
        image = _opened(path)
        _check_mode(path, image, colours=3)
    except ValueError as error:
        return Look(None, False, str(error))
    return Look((image.height, image.width), image.mode not in _GREY, None)


def _checked(size: int | tuple[int, int] | None, colours: int | None) -> tuple[int, int] | None:
    height_and_width = _height_and_width(size)
    if colours is not None and not (is_whole(colours) and colours in _TARGET):
        raise ValueError(f"colours must be 1 (grey) or 3 (RGB), got {colours!r}")
    _require_pillow()
    return height_and_width


def _height_and_width(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = size if isinstance(size, tuple) else (size, size)
    if len(sides) != 2 or not all(is_whole(side) and side >= 1 for side in sides):
        raise ValueError(f"size must be (height, width) or one whole number for both, each >= 1, got {size!r}")
    return sides


def _require_pillow() -> None:
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise ImportError('images needs Pillow: pip install "gan-influence[images]"') from error


def image_files(given: str | os.PathLike[str]) -> list[Path]:
    """The image files in a folder, sorted by name.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
    """
    folder = Path(given)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: give the one that holds the images")
    paths = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    if not paths:
        raise FileNotFoundError(
            f"{folder} holds no image: files that end in {', '.join(_SUFFIXES)} are looked for, not in sub-folders"
        )
    return sorted(paths, key=lambda path: path.name)


def _levels(
    paths: Sequence[Path], size: tuple[int, int] | None, colours: int | None, enlarge: bool, colour_grey: bool
) -> Iterator[UInt8[np.ndarray, "channels height width"]]:
    first = _opened(paths[0])
    for path in paths:
        image = _opened(path)
        _check_mode(path, image, colours)
        if colours is None and image.mode != first.mode:
            raise ValueError(
                f"{path} has mode {image.mode}, but {paths[0].name} has {first.mode}: "
                "give colours=1 or colours=3 to convert all"
            )
        if size is None and image.size != first.size:
            raise ValueError(
                f"{path} is {image.height} x {image.width} (height x width), but {paths[0].name} is {first.height} x "
                f"{first.width}: give size=({first.height}, {first.width}) or another to resize all"
            )
        if size is not None and not enlarge and (image.height < size[0] or image.width < size[1]):
            raise ValueError(
                f"{path} is {image.height} x {image.width} (height x width), less than the {size[0]} x {size[1]} asked "
                "for, and nothing is enlarged without enlarge=True: put a larger one in its place, or take it out"
            )
        if colours == 3 and not colour_grey and image.mode in _GREY:
            raise ValueError(
                f"{path} is grey (mode {image.mode}), and none is made RGB without colour_grey=True: save it as RGB "
                "if that is meant, or take it out"
            )
        converted = _converted(image, _PLAIN[image.mode] if colours is None else _TARGET[colours])
        yield _resized(converted, size or (first.height, first.width))


def _opened(path: Path) -> Image:
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=_FORMATS) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except Exception as error:  # a decoder raises whatever it stumbles over: SyntaxError, struct.error, ...
        raise ValueError(f"{path} cannot be read as an image ({error}): replace it, or take it out") from error


def _check_mode(path: Path, image: Image, colours: int | None) -> None:
    if image.mode == "CMYK":
        raise ValueError(
            f"{path} has mode CMYK, whose colours depend on the printer: save it as RGB, by its ICC profile"
        )
    if image.mode not in _CONVERTIBLE:
        raise ValueError(f"{path} has mode {image.mode}, with more than 8 bits a value: save it with 8")
    depth = _png_depth(path)
    if depth > 8:
        raise ValueError(f"{path} has {depth} bits a value, of which only the first 8 would be read: save it with 8")
    if _is_transparent(image, depth):
        raise ValueError(f"{path} is transparent in places: lay it over a background first, and save it without alpha")
    if colours is None and image.mode not in _PLAIN:
        raise ValueError(
            f"{path} has mode {image.mode}, expected {', '.join(_PLAIN)}: give colours=1 or colours=3 to convert all"
        )


def _png_depth(path: Path) -> int:
    """Bits a value of a PNG, which Pillow keeps to itself; those of the other formats show in the mode."""
    with path.open("rb") as file:
        header = file.read(25)
    return header[24] if header.startswith(b"\x89PNG") else 8


def _is_transparent(image: Image, depth: int) -> bool:
    if not image.has_transparency_data:
        return False
    if image.mode == "L" and depth < 8:
        image = image.copy()  # its levels were stretched to 0 ... 255, but the one that is transparent was not
        image.info["transparency"] *= 255 // (2**depth - 1)
    return image.convert("RGBA").getchannel("A").getextrema() != (255, 255)


def _converted(image: Image, mode: str) -> Image:
    if image.mode not in _PLAIN:
        image = image.convert("RGBA")  # from a palette straight to RGB, Pillow warns of an alpha that it drops
    return image.convert(mode)


def _resized(image: Image, size: tuple[int, int]) -> UInt8[np.ndarray, "channels height width"]:
    from PIL.Image import Resampling

    height, width = size
    levels = np.asarray(image.resize((width, height), Resampling.LANCZOS))
    return levels[None] if levels.ndim == 2 else levels.transpose(2, 0, 1)
