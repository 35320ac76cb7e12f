"""Convolutions of one row's images, channel by channel in SciPy; nothing of the core is used."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import convolve2d, correlate2d

Images = NDArray[np.float64]


def correlated(images: Images, kernel: Images, padding: int = 0, stride: int = 1) -> Images:
    """What torch calls a convolution: images (before, h, w), kernel (after, before, k, k)."""
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding)))
    result = [sum(correlate2d(x, k, "valid") for x, k in zip(padded, of_one, strict=True)) for of_one in kernel]
    return np.stack(result)[:, ::stride, ::stride]


def transposed(images: Images, kernel: Images) -> Images:
    """Zeros between the pixels, then a full convolution: h pixels become 2 h - 2 + k."""
    wide = with_zeros_between(images)[:, :-1, :-1]
    return np.stack([sum(convolve2d(x, k, "full") for x, k in zip(wide, of_one, strict=True)) for of_one in kernel])


def with_zeros_between(images: Images) -> Images:
    """Twice as large, each pixel in the first of its four places."""
    wide = np.zeros((len(images), 2 * images.shape[1], 2 * images.shape[2]))
    wide[:, ::2, ::2] = images
    return wide


def filtered(images: Images, taps: tuple[float, ...], before: int, after: int, factor: float = 1.0) -> Images:
    """Each channel padded with zeros and convolved with a separable filter of sum ``factor``."""
    kernel = factor * np.outer(taps, taps) / np.sum(taps) ** 2
    padded = np.pad(images, ((0, 0), (before, after), (before, after)))
    return np.stack([convolve2d(x, kernel, "valid") for x in padded])


def leaky(x: Images) -> Images:
    return np.where(x > 0, x, 0.2 * x)


def of_mean_square_one(z: Images) -> Images:
    return z / np.sqrt(np.mean(z**2, axis=-1, keepdims=True) + 1e-8)
