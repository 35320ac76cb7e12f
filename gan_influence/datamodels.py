"""The field's measure of accuracy: do summed scores rank runs on random parts of the data?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from gan_influence.checks import check, check_whole, is_real
from gan_influence.harmfulness import checked_scores
from gan_influence.metrics.metric import Measurable
from gan_influence.surroundings import undisturbed
from gan_influence.trace import Trace
from gan_influence.validation import truth_and_noise_floor

__all__ = ["DatamodelingScore", "lds"]

_RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class DatamodelingScore:
    """What :func:`lds` found.

    Attributes:
        correlation: Spearman's, of predictions and truth; NaN where one of them is constant.
        low, high: its 95 % interval, by the bootstrap over subsets.
        predictions: the summed scores of the rows that each subset lacks, float64.
        truth: what the metric gained when they were left out, by retraining, float64.
        noise_floor: what rounding alone does to the metric, in its units; see :func:`gan_influence.validate`.
        spread: the standard deviation of the truth over subsets: of a spread near the noise floor no scores can tell.
    """

    correlation: float
    low: float
    high: float
    predictions: Float[Tensor, " subsets"]
    truth: Float[Tensor, " subsets"]
    noise_floor: float
    spread: float

    def __str__(self) -> str:
        return (
            f"{self.correlation:.3f} [{self.low:.3f}, {self.high:.3f}], {len(self.truth)} subsets; "
            f"spread of the truth {self.spread:.2g}, noise floor {self.noise_floor:.2g}"
        )


@overload
def lds(trace: Trace, metric: Measurable, scores: Tensor, *most: Any, **more: Any) -> DatamodelingScore: ...


@overload
def lds(
    trace: Trace, metric: Measurable, scores: Mapping[str, Tensor], *most: Any, **more: Any
) -> dict[str, DatamodelingScore]: ...


@undisturbed
def lds(
    trace: Trace,
    metric: Measurable,
    scores: Float[Tensor, " N"] | Mapping[str, Float[Tensor, " N"]],
    subsets: int = 50,
    fraction: float = 0.5,
    seed: int = 0,
    *,
    last: int | None = None,
    replicas: int = 4,
    progress: bool = False,
) -> DatamodelingScore | dict[str, DatamodelingScore]:
    r"""The linear datamodelling score (Ilyas et al. 2022; Park et al. 2023, TRAK): of scores, against retraining.

    For random subsets S of the rows, Spearman's correlation between what scores predict and what happens::

        sum of scores_j over the rows j outside S        against        metric(run on S) - metric(run on all)

    The run on S is the same run with the other rows' weights at 0, denominators unchanged, as in a removal (TNNLS eq.
    6); all of them are trained as one batch of models. A score is linear in the rows that leave, the truth is not:
    where scores hold for single rows they may fail for halves. Raise ``fraction`` to see from where on they hold.

    Args:
        trace: the run.
        metric: that was scored, a single number.
        scores: ``metric(after removal) - metric(before)``, one a row; or several, ``{name: scores}``, which share the
            retrainings. Of harmfulness, such as a baseline's, the ranks are those of scores of a metric of which larger
            is better.
        subsets: how many.
        fraction: of the rows that have a weight, how large a share each subset keeps, in (0, 1).
        seed: of the subsets and of the bootstrap, ``numpy.random.default_rng``.
        last: retrain that many final steps only.
        replicas: how many retrainings the noise floor is measured by.
        progress: show a progress bar.

    Returns:
        A :class:`DatamodelingScore`, or one for each name.

    Raises:
        TypeError, ValueError: not one finite score a row; fewer than 4 subsets; a fraction that keeps all rows or none.
        DivergenceError, MemoryError: as :func:`gan_influence.counterfactual` does.
    """
    named = dict(scores) if isinstance(scores, Mapping) else {"": scores}
    given = {name: checked_scores(one, trace.size).cpu().double() for name, one in named.items()}
    check_whole("subsets", subsets, 4)
    check_whole("replicas", replicas)
    check_whole("seed", seed, 0)
    weighted = (trace.weights != 0).nonzero().flatten().tolist()
    kept = round(fraction * len(weighted)) if is_real(fraction) else 0
    check(0 < kept < len(weighted), "fraction", f"a share of {len(weighted)} rows in (0, 1) that keeps some", fraction)

    rng = np.random.default_rng([seed, 2])
    removals = [sorted(rng.permutation(weighted)[kept:].tolist()) for _ in range(subsets)]
    truth, floor = truth_and_noise_floor(trace, metric, removals, seed, replicas, last, progress)
    resampled = rng.integers(subsets, size=(_RESAMPLES, subsets))
    found = {}
    for name, one in given.items():
        predictions = torch.stack([one[removed].sum() for removed in removals])
        of_samples = _spearman(predictions.numpy()[resampled], truth.numpy()[resampled])
        low, high = np.nanquantile(of_samples, (0.025, 0.975)) if np.isfinite(of_samples).any() else (np.nan, np.nan)
        correlation = float(_spearman(predictions.numpy()[None], truth.numpy()[None])[0])
        found[name] = DatamodelingScore(
            correlation, float(low), float(high), predictions, truth, floor, float(truth.std())
        )
    return found if isinstance(scores, Mapping) else found[""]


def _spearman(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of each line; NaN where one is constant."""
    a, b = (rankdata(values, axis=1) for values in (one, other))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))
