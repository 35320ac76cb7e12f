"""Differentiable augmentation of images (Zhao et al. 2020, DiffAugment), whose randomness the batch brings along.

All of it is arithmetic and indexing, whose derivatives of any order every release of torch knows, as a gradient
penalty on augmented images needs them; of ``grid_sample``, by which others shift images, older ones know the first
alone. An image's result depends on its own numbers, and on no other image.

Each function takes images ``(n, c, h, w)`` and noise ``(n, k)``: k uniform numbers in [0, 1) an image, which are not
differentiated. Reals and generated images have numbers of their own, or share them, as the schedule draws them:

    >>> import torch
    >>> from gan_influence.nn import augment
    >>> policy = ("color", "translation")
    >>> images, noise = torch.ones(2, 3, 4, 4), torch.rand(2, augment.numbers(policy))
    >>> augment.diff_augment(images, noise, policy).shape
    torch.Size([2, 3, 4, 4])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["brightness", "contrast", "cutout", "diff_augment", "flip", "numbers", "saturation", "translation"]

Images: TypeAlias = Float[Tensor, "n c h w"]
POLICY = ("color", "translation", "cutout")


def diff_augment(images: Images, noise: Float[Tensor, "n k"], policy: Sequence[str] | str = POLICY) -> Images:
    """The augmentations of a policy, one after another, each with the next columns of the noise.

    Args:
        images: to augment.
        noise: uniform numbers in [0, 1), ``k = numbers(policy)`` an image.
        policy: names, or one string of them with commas between: ``"color"`` (which is ``"brightness"``,
            ``"saturation"`` and ``"contrast"``), ``"translation"``, ``"cutout"``, ``"flip"``.

    Raises:
        ValueError: an unknown name; images or noise of another shape.
    """
    steps = _steps(policy)
    _check(images, noise, sum(k for _, k in steps), f"the policy {policy!r}")
    for (augmentation, _), own in zip(steps, noise.split([k for _, k in steps], dim=1), strict=True):
        images = augmentation(images, own)
    return images


def numbers(policy: Sequence[str] | str = POLICY) -> int:
    """How many numbers an image a policy takes: 3 for ``"color"``, 2 each for the two others of the default, 7.

    Raises:
        ValueError: an unknown name.
    """
    return sum(k for _, k in _steps(policy))


def brightness(images: Images, noise: Float[Tensor, "n 1"]) -> Images:
    """``x + u - 1/2``."""
    u = _colouring(images, noise, "brightness")
    return images + (u - 0.5)


def saturation(images: Images, noise: Float[Tensor, "n 1"]) -> Images:
    """``m + 2 u (x - m)``, with m the mean of a pixel's channels."""
    u = _colouring(images, noise, "saturation")
    mean = images.mean(1, keepdim=True)
    return mean + 2 * u * (images - mean)


def contrast(images: Images, noise: Float[Tensor, "n 1"]) -> Images:
    """``m + (u + 1/2) (x - m)``, with m the mean of the image."""
    u = _colouring(images, noise, "contrast")
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (u + 0.5) * (images - mean)


def translation(images: Images, noise: Float[Tensor, "n 2"], ratio: float = 0.125) -> Images:
    """Pixel (i, j) is what was at (i + a, j + b), 0 where that lies outside.

    a is a whole number from -s to s with ``s = round(ratio * height)``, from the first number; b likewise of the width.
    """
    _check(images, noise, 2, "translation")
    for dim, u in zip((2, 3), noise.unbind(1), strict=True):
        size = images.shape[dim]
        most = int(size * ratio + 0.5)
        images = _shifted(images, dim, _whole(u, 2 * most + 1) - most)
    return images


def cutout(images: Images, noise: Float[Tensor, "n 2"], ratio: float = 0.5) -> Images:
    """0 in a rectangle, ``round(ratio * height)`` by ``round(ratio * width)`` pixels; a part may lie outside.

    Its middle is any pixel (of an even number the second of the two, or the place beyond the last pixel), its row from
    the first number, its column from the second.
    """
    _check(images, noise, 2, "cutout")
    inside = []
    for dim, u in zip((2, 3), noise.unbind(1), strict=True):
        size = images.shape[dim]
        cut = int(size * ratio + 0.5)
        first = _whole(u, size + 1 - cut % 2) - cut // 2
        place = torch.arange(size, device=images.device) - first.unsqueeze(1)
        inside.append((place >= 0) & (place < cut))
    down, right = inside
    return torch.where(down[:, None, :, None] & right[:, None, None, :], 0.0, images)


def flip(images: Images, noise: Float[Tensor, "n 1"]) -> Images:
    """Left and right exchanged where ``u >= 1/2``."""
    _check(images, noise, 1, "flip")
    return torch.where(noise[:, :, None, None] < 0.5, images, images.flip(3))


_AUGMENTATIONS: dict[str, tuple[tuple[Callable[[Images, Tensor], Images], int], ...]] = {
    "brightness": ((brightness, 1),),
    "saturation": ((saturation, 1),),
    "contrast": ((contrast, 1),),
    "color": ((brightness, 1), (saturation, 1), (contrast, 1)),
    "translation": ((translation, 2),),
    "cutout": ((cutout, 2),),
    "flip": ((flip, 1),),
}


def _steps(policy: Sequence[str] | str) -> list[tuple[Callable[[Images, Tensor], Images], int]]:
    names = [name.strip() for name in policy.split(",")] if isinstance(policy, str) else list(policy)
    unknown = [name for name in names if name not in _AUGMENTATIONS]
    if unknown:
        raise ValueError(f"policy names {unknown[0]!r}; the augmentations are {', '.join(sorted(_AUGMENTATIONS))}")
    return [step for name in names for step in _AUGMENTATIONS[name]]


def _check(images: Tensor, noise: Tensor, k: int, what: str) -> None:
    if images.ndim != 4:
        raise ValueError(f"images must be (n, channels, height, width), got shape {tuple(images.shape)}")
    if noise.shape != (len(images), k):
        raise ValueError(
            f"{what} takes {k} number{'s' * (k != 1)} an image, noise of shape ({len(images)}, {k}), got "
            f"{tuple(noise.shape)}: gi.nn.augment.numbers(policy) says how many"
        )


def _colouring(images: Tensor, noise: Tensor, what: str) -> Float[Tensor, "n 1 1 1"]:
    """In the images' type, or float32 images would come back as float64."""
    _check(images, noise, 1, what)
    return noise[:, :, None, None].to(images.dtype)


def _whole(u: Float[Tensor, " n"], count: int) -> Int[Tensor, " n"]:
    """One of 0 ... count - 1 each; a number just below 1 that was rounded to 1 is the last too."""
    return (u * count).long().clamp(max=count - 1)


def _shifted(images: Images, dim: int, by: Int[Tensor, " n"]) -> Images:
    """What was ``by`` places on along a dimension, another number for each image."""
    size = images.shape[dim]
    place = torch.arange(size, device=images.device) + by.unsqueeze(1)
    place = place.view(len(images), *(size if d == dim else 1 for d in (1, 2, 3)))
    found = images.gather(dim, place.clamp(0, size - 1).expand(images.shape))
    return torch.where((place >= 0) & (place < size), found, 0.0)
