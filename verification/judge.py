"""How numbers become verdicts, and the numerical tools that several claims use."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.stats import t

from verification.ledger import Number, Outcome, Plot

__all__ = ["at_most", "close", "correction", "observed_order", "relative", "removal_derivative", "richardson", "slope"]


def relative(one: np.ndarray, other: np.ndarray) -> float:
    """``|one - other| / |other|``.

    Raises:
        ValueError: both are the same numbers in memory, a computation compared with itself.
    """
    one, other = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    if np.shares_memory(one, other):
        raise ValueError("compared with itself: the reference must be another computation")
    return float(np.linalg.norm(one - other) / max(float(np.linalg.norm(other)), np.finfo(float).tiny))


def at_most(
    error: float, tolerance: float, numbers: Mapping[str, Number] | None = None, plot: Plot | None = None
) -> Outcome:
    """``holds`` where an error that should vanish is within its tolerance."""
    verdict = "holds" if error <= tolerance else "refuted"
    return Outcome(verdict, error, 0, tolerance, numbers=numbers or {}, plot=plot)


def close(
    value: float,
    expected: float,
    tolerance: float,
    numbers: Mapping[str, Number] | None = None,
    plot: Plot | None = None,
) -> Outcome:
    """``holds`` where a value is within a tolerance of what was expected."""
    verdict = "holds" if abs(value - expected) <= tolerance else "refuted"
    return Outcome(verdict, value, expected, tolerance, numbers=numbers or {}, plot=plot)


def correction(
    printed_error: float, amended_error: float, tolerance: float, printed: str, amended: str, control: str = ""
) -> Outcome:
    """``holds`` where the printed form's error vanishes, ``corrected`` where only the amended form's does."""
    amends = "corrected" if amended_error <= tolerance else "refuted"
    verdict = "holds" if printed_error <= tolerance else amends
    return Outcome(verdict, printed_error, 0, tolerance, printed=printed, amended=amended, control=control)


def slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Log-log slope by least squares, and the half-width of its 95 % interval."""
    logx, logy = np.log(np.asarray(x, dtype=float)), np.log(np.asarray(y, dtype=float))
    design = np.stack([logx, np.ones_like(logx)], axis=1)
    coefficients, residuals, *_ = np.linalg.lstsq(design, logy, rcond=None)
    freedom = len(logx) - 2
    if freedom < 1 or not len(residuals):
        return float(coefficients[0]), float("inf")
    variance = float(residuals[0]) / freedom * np.linalg.inv(design.T @ design)[0, 0]
    return float(coefficients[0]), float(t.ppf(0.975, freedom) * np.sqrt(variance))


def observed_order(steps: np.ndarray, errors: np.ndarray) -> float:
    """The order of convergence over those steps whose error truncation dominates: slope of log error on log step."""
    steps, errors = np.asarray(steps), np.asarray(errors)
    return slope(steps, errors)[0]


def richardson(halved: np.ndarray) -> np.ndarray:
    """Two levels of Richardson extrapolation of differences at h, h/2, h/4, along the first axis: error O(h^6)."""
    first = (4 * halved[1:] - halved[:-1]) / 3
    return np.array((16 * first[1] - first[0]) / 15)


def removal_derivative(end: Callable[[float], np.ndarray], h: float) -> np.ndarray:
    """-d end(w) / dw at w = 1, the sign being that of a removal, by central differences and :func:`richardson`."""
    halved = [-(end(1 + step) - end(1 - step)) / (2 * step) for step in (h, h / 2, h / 4)]
    return richardson(np.stack(halved))
