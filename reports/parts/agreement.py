"""How well scores agree with the truth: the measures that the experiments on accuracy share."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.stats import kendalltau

from reports.experiment import Quantity

__all__ = ["ERROR", "RELATIVE_ERROR", "finite", "relative_error", "tau"]

ERROR = "Relative error"
RELATIVE_ERROR = Quantity(
    ERROR,
    "Relative error of the influence values, |estimate - truth| / |truth| over the removed rows: median over seeds, "
    "(10 %) (90 %) percentiles; not in the paper",
    decimals=None,
    center="median",
)


def tau(scores: Float[np.ndarray, " R"], truth: Float[np.ndarray, " R"]) -> float | None:
    """Kendall's tau-b; ``None`` where either is constant."""
    return finite(kendalltau(scores, truth).statistic)


def relative_error(scores: Float[np.ndarray, " R"], truth: Float[np.ndarray, " R"]) -> float | None:
    """``|scores - truth| / |truth|``; ``None`` where that is no number."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return finite(np.linalg.norm(scores - truth) / np.linalg.norm(truth))


def finite(value: float | np.floating) -> float | None:
    """JSON has no NaN and no infinity: a tau of constant scores, say, is nothing measured."""
    return float(value) if np.isfinite(value) else None
