"""The statistics of the reports, each rule stated once."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import ttest_1samp

__all__ = ["VERDICT_RULE", "bootstrap_interval", "p_above_zero", "verdict"]

RESAMPLES = 10_000
LEVEL = 0.95
FEWEST_SEEDS = 3

VERDICT_RULE = (
    "Each measured cell has a 95 % percentile-bootstrap interval of its mean over seeds (10 000 resamples, fixed "
    "seed). «agrees»: the interval meets the printed mean, within its rounding. «within spread»: it misses the mean "
    "but meets the printed 10 % to 90 % range over the paper's seeds. «differs»: it misses both. «not comparable»: "
    "the settings are not those of the paper. «too few seeds»: fewer than three, whose interval means nothing. «not "
    "run»: nothing was measured."
)


def bootstrap_interval(values: list[float], center: str = "mean") -> tuple[float, float]:
    """Percentile-bootstrap interval, at 95 %, of the mean (or median) over seeds; a single value gives itself twice."""
    data = np.asarray(values, dtype=float)
    draws = np.random.default_rng(0).integers(len(data), size=(RESAMPLES, len(data)))
    statistic = np.mean if center == "mean" else np.median
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(statistic(data[draws], axis=1), [tail, 100 - tail])
    return float(low), float(high)


def p_above_zero(values: list[float]) -> float | None:
    """One-sided t-test over seeds that the mean exceeds 0, a random order's; ``None`` for fewer than two seeds.

    Never below 2^-n, the chance that n signs all come out positive: few equal values prove little.
    """
    if len(values) < 2:
        return None
    if np.ptp(values) == 0:
        p = 0.0 if values[0] > 0 else 1.0
    else:
        p = float(ttest_1samp(values, 0.0, alternative="greater").pvalue)
    return max(p, 0.5 ** len(values))


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
