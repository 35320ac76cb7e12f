"""Scikit-learn's small handwritten digits, for which nothing is downloaded."""

from __future__ import annotations

import numpy as np
import torch

from gan_influence.datasets.labelled import LabelledImages
from gan_influence.datasets.pixels import check_dtype, scaled

__all__ = ["digits"]


def digits(*, dtype: torch.dtype = torch.float32) -> LabelledImages:
    """The 1797 digits of 8 x 8 pixels that come with scikit-learn (the test part of UCI's Optical Recognition data).

    A level p of 0 ... 16 becomes p / 8 - 1.

    Args:
        dtype: of the images.

    Returns:
        Images ``(1797, 1, 8, 8)`` in [-1, 1], labels ``(1797,)`` of 0 ... 9.

    Raises:
        ImportError: scikit-learn is not installed.
        TypeError: ``dtype`` is no floating-point type.

    Example:
        >>> digits().images.shape
        torch.Size([1797, 1, 8, 8])
    """
    check_dtype(dtype)
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError('digits needs scikit-learn: pip install "gan-influence[images]"') from error
    bundled = load_digits()
    images = scaled(bundled.images.astype(np.uint8), dtype, largest=16)
    return LabelledImages(images.unsqueeze(1), torch.from_numpy(bundled.target.astype(np.int64)))
