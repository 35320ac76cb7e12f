"""Which values count as numbers: Python's and NumPy's, but never a bool, which is a slip."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, TypeGuard

__all__ = ["is_real", "is_whole"]


def is_whole(value: Any) -> TypeGuard[int]:
    """A whole number, such as ``3`` or ``numpy.int64(3)``."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_real(value: Any) -> TypeGuard[float]:
    """A finite real number, such as ``0.1``, ``2`` or ``numpy.float32(0.1)``."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
