"""From stored levels of brightness to what a generator makes: numbers in [-1, 1]."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

__all__ = ["as_images", "check_dtype", "scaled"]


def scaled(levels: UInt8[np.ndarray, "*shape"], dtype: torch.dtype, *, largest: int = 255) -> Float[Tensor, "*shape"]:
    """``p / (largest / 2) - 1``, computed in float64 and then rounded to ``dtype``: 0 becomes -1, ``largest`` 1."""
    table = (torch.arange(largest + 1, dtype=torch.float64) / (largest / 2) - 1).to(dtype)
    indices = torch.from_numpy(levels.astype(np.int32))
    return table.index_select(0, indices.flatten()).reshape(indices.shape)


def as_images(rows: Tensor, dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """Levels of 0 ... 255 (uint8) as images in [-1, 1], the very numbers of :func:`scaled`; others are as they are.

    So that training data may stay uint8, an eighth of float64, until a step looks at its batch.
    """
    return (rows.double() / 127.5 - 1).to(dtype) if rows.dtype == torch.uint8 else rows


def check_dtype(dtype: torch.dtype) -> None:
    """A floating-point data type.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating-point type such as torch.float32, got {dtype!r}")
