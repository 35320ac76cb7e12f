"""The statistics of the reports, each rule stated once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest, hypergeom, ttest_1samp

__all__ = [
    "SEEDS_TO_TELL",
    "VERDICT_RULE",
    "bootstrap_interval",
    "expected_jaccard",
    "jaccard",
    "p_above",
    "p_paired",
    "sign_test",
    "verdict",
]

RESAMPLES = 10_000
LEVEL = 0.95
FEWEST_SEEDS = 3
SEEDS_TO_TELL = 5  # with fewer, p_above is never below .05

VERDICT_RULE = (
    "Each measured cell has a 95 % percentile-bootstrap interval of its mean over seeds (10 000 resamples, fixed "
    "seed). «agrees»: the interval meets the printed mean, within its rounding, or within the reading error where the "
    "value is read off a figure. «within spread»: it misses the mean but meets the printed spread over the paper's "
    "seeds: the 10 % to 90 % range, or the mean ± one standard deviation, whichever is printed. «differs»: it misses "
    "the mean, and the spread where one is printed. «not comparable»: the settings are not those of the paper. «too "
    "few seeds»: fewer than three, whose interval means nothing. «not run»: nothing was measured."
)


def bootstrap_interval(values: list[float], center: str = "mean") -> tuple[float, float]:
    """Percentile-bootstrap interval, at 95 %, of the mean (or median) over seeds; a single value gives itself twice."""
    data = np.asarray(values, dtype=float)
    draws = np.random.default_rng(0).integers(len(data), size=(RESAMPLES, len(data)))
    statistic = np.mean if center == "mean" else np.median
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(statistic(data[draws], axis=1), [tail, 100 - tail])
    return float(low), float(high)


def p_above(values: Sequence[float], baseline: float = 0.0) -> float | None:
    """One-sided t-test over seeds that the mean exceeds ``baseline``; ``None`` for fewer than two seeds.

    Never below 2^-n, the chance that n signs all come out positive: few equal values prove little.
    """
    if len(values) < 2:
        return None
    if np.ptp(values) <= 1e-9 * np.max(np.abs(values)):  # equal but for rounding: no t-test
        p = 0.0 if values[0] > baseline else 1.0
    else:
        p = float(ttest_1samp(values, baseline, alternative="greater").pvalue)
    return max(p, 0.5 ** len(values))


def p_paired(more: Sequence[float], less: Sequence[float]) -> float | None:
    """One-sided paired t-test over seeds that ``more`` exceeds ``less`` on average; see :func:`p_above`."""
    return p_above([one - other for one, other in zip(more, less, strict=True)])


def sign_test(values: Sequence[float]) -> tuple[int, float]:
    """How many values are positive, and the chance of so many or more if either sign were as likely."""
    positive = sum(value > 0 for value in values)
    return positive, float(binomtest(positive, len(values), 0.5, alternative="greater").pvalue)


def jaccard(estimate: ArrayLike, truth: ArrayLike, critical: int) -> float:
    """Jaccard index of two sets of critical rows (ICLR 5.1): |intersection| / |union|.

    Each set is one set of ``2 critical`` rows: those of the ``critical`` largest and of the ``critical`` smallest
    influences together.
    """
    ours, theirs = (_critical_rows(influence, critical) for influence in (estimate, truth))
    return len(ours & theirs) / len(ours | theirs)


def expected_jaccard(rows: int, critical: int) -> float:
    """What :func:`jaccard` is on average when the estimate is a random order, exactly.

    Two random sets of m = 2 critical rows out of n share X rows, X hypergeometric, so that the mean is
    ``sum_x P(X = x) x / (2 m - x)``: .0538 for the paper's 10 + 10 of 200.
    """
    size = 2 * critical
    shared = np.arange(size + 1)
    return float(np.sum(hypergeom(rows, size, size).pmf(shared) * shared / (2 * size - shared)))


def _critical_rows(influence: ArrayLike, critical: int) -> set[int]:
    order = np.argsort(influence, kind="stable").tolist()
    if len(order) < 2 * critical:
        raise ValueError(f"{2 * critical} critical rows cannot be chosen from {len(order)}")
    return {*order[:critical], *order[len(order) - critical :]}


def verdict(
    low: float | None,
    high: float | None,
    printed: float | None,
    spread: tuple[float, float] | None,
    rounding: float,
    comparable: bool,
    seeds: int,
) -> str | None:
    """One cell's verdict by :data:`VERDICT_RULE`; ``None`` where nothing is printed."""
    if printed is None:
        return None
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return "not run"
    if not comparable:
        return "not comparable"
    if seeds < FEWEST_SEEDS:
        return "too few seeds"
    if low - rounding <= printed <= high + rounding:
        return "agrees"
    if spread is not None and low - rounding <= spread[1] and spread[0] <= high + rounding:
        return "within spread"
    return "differs"
