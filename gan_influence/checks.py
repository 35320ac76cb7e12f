"""Settings, checked where they are given. Numbers are Python's and NumPy's, but never a bool, which is a slip."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, TypeGuard

__all__ = ["check", "check_not_negative", "check_positive", "check_whole", "is_real", "is_whole"]


def is_whole(value: Any) -> TypeGuard[int]:
    """A whole number, such as ``3`` or ``numpy.int64(3)``."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_real(value: Any) -> TypeGuard[float]:
    """A finite real number, such as ``0.1``, ``2`` or ``numpy.float32(0.1)``."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check(holds: bool, name: str, wanted: str, value: object) -> None:
    """Refuse a setting.

    Raises:
        ValueError: it does not hold; ``{name} must be {wanted}, got {value!r}``.
    """
    if not holds:
        raise ValueError(f"{name} must be {wanted}, got {value!r}")


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Is this a whole number, and large enough?"""
    check(is_whole(value) and value >= least, name, f"a whole number >= {least}", value)


def check_positive(name: str, value: Any) -> None:
    """Is this a finite number above 0?"""
    check(is_real(value) and value > 0, name, "a finite number above 0", value)


def check_not_negative(**values: Any) -> None:
    """Are these finite numbers, none negative?"""
    for name, value in values.items():
        check(is_real(value) and value >= 0, name, "a finite number >= 0", value)
