"""Settings that solvers share, checked when a solver is made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gan_influence.checks import is_real, is_whole

__all__ = ["check_scale", "check_terms", "check_tolerance"]


def check_terms(terms: int | Sequence[int]) -> list[int]:
    """The numbers of terms that this is, one or several."""
    counts = list(terms) if isinstance(terms, Sequence | np.ndarray) else [terms]
    if not counts or not all(is_whole(count) and count >= 1 for count in counts):
        raise ValueError(f"terms must be a whole number >= 1, or several, got {terms!r}")
    return counts


def check_scale(scale: float | None) -> None:
    """Is this a number to scale with, or none?"""
    if scale is not None and (not is_real(scale) or scale <= 0):
        raise ValueError(f"scale must be a finite number above 0, got {scale!r}")


def check_tolerance(tolerance: float | None) -> None:
    """Is this something to be near to, or none?"""
    if tolerance is not None and (not is_real(tolerance) or tolerance <= 0):
        raise ValueError(f"tolerance must be a finite number above 0, or None, got {tolerance!r}")
