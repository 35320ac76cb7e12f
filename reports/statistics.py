"""The statistics of the reports, each rule stated once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import binomtest, chi2, hypergeom, ttest_1samp

__all__ = [
    "SEEDS_TO_TELL",
    "VERDICT_RULE",
    "Comparison",
    "bootstrap_interval",
    "compared",
    "effect_size",
    "expected_jaccard",
    "holm",
    "jaccard",
    "p_above",
    "p_paired",
    "p_permutation",
    "sign_test",
    "verdict",
]

RESAMPLES = 10_000
LEVEL = 0.95
FEWEST_SEEDS = 3
SEEDS_TO_TELL = 5  # with fewer, p_above is never below .05
EXACT_UP_TO = 30  # values of whose signs all patterns are counted
DRAWN_SIGNS = 2**16
QUANTILES = 10_000  # of a chi distribution, for an expectation

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


def p_permutation(values: Sequence[float]) -> float | None:
    """One-sided paired permutation test that the mean exceeds 0; ``None`` for fewer than two values.

    The share of sign patterns whose sum is at least the observed one: of all 2^n, or above 30 values of 65 536, drawn
    with a fixed seed, the observed one among them.
    """
    data = np.asarray(values, dtype=float)
    if len(data) < 2:
        return None
    observed = data.sum() - 1e-9 * np.abs(data).sum()  # whatever the order in which sums are rounded
    if len(data) <= EXACT_UP_TO:
        one, other = (_signed_sums(half) for half in np.array_split(data, 2))
        other.sort()
        return float(np.mean(1 - np.searchsorted(other, observed - one) / len(other)))
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (DRAWN_SIGNS - 1, len(data)))
    return float(np.mean(np.append(signs @ data, data.sum()) >= observed))


def _signed_sums(values: np.ndarray) -> np.ndarray:
    """The sums of the values under all patterns of signs."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def effect_size(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Cohen's d of paired differences, mean / standard deviation, and its 95 % interval; ``None`` where it has none.

    The interval holds the d at which the observed t = d sqrt(n) is no outlier of the noncentral t distribution::

        P(T <= t | delta) = E Phi(t s - delta),   delta = d sqrt(n),   (n - 1) s^2 ~ chi^2 with n - 1 degrees

    the expectation over quantiles of s: stable however large t is, where ``scipy.stats.nct`` is NaN.
    """
    n = len(values)
    if n < 2 or np.ptp(values) <= 1e-9 * np.max(np.abs(values)):
        return None
    d = float(np.mean(values) / np.std(values, ddof=1))
    s = np.sqrt(chi2.ppf((np.arange(QUANTILES) + 0.5) / QUANTILES, n - 1) / (n - 1))
    centers = d * math.sqrt(n) * s
    low, high, tail = centers.min() - 10, centers.max() + 10, (1 - LEVEL) / 2

    def at(quantile: float) -> float:
        found = brentq(lambda delta: ndtr(centers - delta).mean() - quantile, low, high, xtol=1e-9)
        return float(found) / math.sqrt(n)

    return d, at(1 - tail), at(tail)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number by Holm's step-down rule, in the order given."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, k in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[k]))
        corrected[k] = largest
    return corrected


@dataclass(frozen=True)
class Comparison:
    """By how much one thing exceeds another over the same seeds.

    Attributes:
        difference, low, high: the mean difference and its bootstrap interval.
        p_t, p_permutation: one-sided, that it is above 0, by a t-test and a permutation test.
        effect: Cohen's d with its interval, or ``None``.
    """

    difference: float
    low: float
    high: float
    p_t: float
    p_permutation: float
    effect: tuple[float, float, float] | None


def compared(more: Sequence[float], less: Sequence[float]) -> Comparison | None:
    """The paired comparison; ``None`` for fewer than two seeds."""
    differences = [one - other for one, other in zip(more, less, strict=True)]
    p_t, permuted = p_above(differences), p_permutation(differences)
    if p_t is None or permuted is None:
        return None
    low, high = bootstrap_interval(differences)
    return Comparison(float(np.mean(differences)), low, high, p_t, permuted, effect_size(differences))


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
