"""Are scores to be trusted on a run? A few rows are retrained without, and the scores compared with what happened."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import kendalltau
from torch import Tensor

from gan_influence.checks import check, check_whole, is_whole
from gan_influence.counterfactual import counterfactual_and_rounding
from gan_influence.harmfulness import checked_scores, members
from gan_influence.metrics.metric import Measurable, metric_value
from gan_influence.surroundings import undisturbed
from gan_influence.trace import Trace
from gan_influence.training import check_removal

__all__ = ["Agreement", "truth_and_noise_floor", "validate"]

_ABOVE_FLOOR = 3.0
_TAU, _LEVEL = 0.5, 0.05
_SLOPE = 0.5, 2.0
_FEWEST_ROWS = 4  # of three rows even the right order is no evidence: it comes up by chance once in six times


@dataclass(frozen=True, eq=False)
class Agreement:
    """What :func:`validate` found. ``print`` shows it in full.

    Attributes:
        rows: the rows, or the groups, that were retrained without.
        estimates: their scores, of a group the sum, float64.
        truth: their influences, by retraining, float64.
        tau: Kendall's tau-b between both; ``None`` where one of them is constant.
        p_value: of a tau as large or larger, were the order random; exact where there are no ties.
        slope: of the truth on the estimates, through the origin; ``None`` where all estimates are 0.
        relative_error: ``|estimates - truth| / |truth|``; ``None`` where the truth is 0.
        noise_floor: what rounding alone does to the metric, in its units.
        trusted: the verdict; see :func:`validate` for the rule.
        reason: for the verdict. Without trust it begins with ``rounding``, ``sign``, ``order`` or ``size``.
    """

    rows: tuple[Any, ...]
    estimates: Float[Tensor, " rows"]
    truth: Float[Tensor, " rows"]
    tau: float | None
    p_value: float | None
    slope: float | None
    relative_error: float | None
    noise_floor: float
    trusted: bool
    reason: str

    def __str__(self) -> str:
        lines = [
            f"{'trusted' if self.trusted else 'not to be trusted'}: {self.reason}",
            f"  Kendall's tau   {_shown(self.tau)} (p = {_shown(self.p_value)})",
            f"  slope           {_shown(self.slope)}",
            f"  relative error  {_shown(self.relative_error)}",
            f"  influences      {_shown(_rms(self.truth.numpy()))} (root mean square)",
            f"  noise floor     {_shown(self.noise_floor)}",
            f"  {'row':>8}  {'estimate':>11}  {'truth':>11}",
        ]
        for row, estimate, truth in zip(self.rows, self.estimates.tolist(), self.truth.tolist(), strict=True):
            lines.append(f"  {row:>8}  {estimate:>11.3e}  {truth:>11.3e}")
        return "\n".join(lines)


@undisturbed
def validate(
    trace: Trace,
    metric: Measurable,
    scores: Float[Tensor, " N"],
    rows: int | Iterable[Any] = 8,
    seed: int = 0,
    *,
    groups: Sequence[Any] | Tensor | None = None,
    last: int | None = None,
    replicas: int = 4,
    progress: bool = False,
) -> Agreement:
    r"""Compare scores with the truth on a few rows: are they to be trusted on this run?

    Each of these rows is left out of a retraining (TNNLS eq. 7). Beside them, in the same batch of models, the factual
    run is trained again from ``replicas`` starts whose every parameter is moved by a random sign times half a unit in
    the last place. The **noise floor** is what that does to the metric,
    ``sqrt(mean_k (metric(replica_k) - metric(factual))^2)``, or half a unit in the metric's own last place, ``eps/2``
    times its value, if that is more. The truth carries as much rounding as the replicas do.

    The scores are trusted where all of this holds, and else not, for the first reason that applies:

    * ``rounding``: the root mean square of the influences is above 3 times the noise floor. Otherwise the truth itself
      says nothing, neither for nor against the scores.
    * ``sign``: Kendall's tau is not significantly negative (one-sided p <= .05).
    * ``order``: tau is at least 0.5 and significantly positive (one-sided p <= .05).
    * ``size``: the slope of truth on estimate through the origin lies between 1/2 and 2.

    Eight rows show gross failure, no more. Scores that have nothing to do with the truth pass the test of order in 3 %
    of cases, those whose tau over all rows is .3, .5, .7 or .9 in 19, 48, 85 and 99.7 % (normal scores and influences).
    With twenty rows it is 0.1 %, and 8, 53, 98 and 100 %. To compare estimators take
    :func:`gan_influence.counterfactual` and many more.

    Args:
        trace: the run.
        metric: that was scored.
        scores: of all rows, ``metric(after removal) - metric(before)``, from :func:`gan_influence.itd`,
            :func:`gan_influence.aid` or anywhere else.
        rows: how many to draw, at least 4, of those with a weight that a batch of the run uses; or which.
        groups: of each row the group that it belongs to, a class or a file. Then whole groups are left out, of which
            the estimate is the sum of their scores; ``rows`` says how many groups, or names them.
        seed: of the draw, ``numpy.random.default_rng(seed)``, and of the signs, ``default_rng([seed, 1])``.
        last: retrain that many final steps only. Scores of ``itd(..., last=k)`` are to be validated with ``last=k``.
        replicas: how many retrainings the noise floor is measured by, at least 1.
        progress: show a progress bar.

    Raises:
        TypeError: scores or rows are of the wrong kind.
        ValueError: not one finite score a row; too few rows, or one without influence by construction.
        IndexError: a row is out of range.
        DivergenceError, MemoryError: as :func:`gan_influence.counterfactual` does.

    Example:
        >>> import gan_influence as gi
        >>> data, latents = gi.datasets.normal_1d(50, seed=0), gi.datasets.normal_1d(50, mean=0.0, seed=1)
        >>> game = gi.Game(*gi.models.lqgan(seed=0))
        >>> trace = gi.train(game, data, gi.FullBatch(latents), steps=100, optimizer=gi.SGD(0.01))
        >>> metric = gi.metrics.AverageLogLikelihood(data, latents)
        >>> scores = gi.itd(trace, metric)
        >>> validate(trace, metric, scores).trusted, validate(trace, metric, -scores).trusted
        (True, False)
    """
    given = checked_scores(scores, trace.size).cpu().double()
    check_whole("seed", seed, 0)
    check_whole("replicas", replicas)
    candidates = _with_influence(trace, trace.window(last))
    if groups is None:
        chosen: list[Any] = _chosen(rows, candidates, seed, trace.size)
        removals = [[row] for row in chosen]
    else:
        of_groups = members(groups, trace.size)
        chosen = _chosen_groups(rows, of_groups, set(candidates), seed)
        removals = [of_groups[name] for name in chosen]
    estimates = torch.stack([given[removed].sum() for removed in removals])

    truth, floor = truth_and_noise_floor(trace, metric, removals, seed, replicas, last, progress)
    return _agreement(tuple(chosen), estimates, truth, floor)


def truth_and_noise_floor(
    trace: Trace,
    metric: Measurable,
    removals: Sequence[Sequence[int]],
    seed: int,
    replicas: int,
    last: int | None,
    progress: bool,
) -> tuple[Float[Tensor, " R"], float]:
    """What removals do to the metric, by retraining, float64 on the CPU; and what rounding does to it.

    That is the root mean square over replicas, or half a unit in the metric's last place, of which no difference knows.
    """
    signs = torch.from_numpy(np.random.default_rng([seed, 1]).choice([-1.0, 1.0], (replicas, trace.game.size)))
    truth, rounding = counterfactual_and_rounding(trace, metric, removals, signs, last, progress=progress)
    value = metric_value(metric, trace.game, trace.seen(), trace.held())
    half_a_unit = torch.finfo(value.dtype).eps / 2 * abs(float(value))
    return truth.cpu(), max(_rms(rounding.cpu().numpy()), half_a_unit)


def _agreement(rows: tuple[Any, ...], estimates: Tensor, truth: Tensor, floor: float) -> Agreement:
    e, t = estimates.numpy(), truth.numpy()
    tau, p_value = kendalltau(e, t, alternative="greater")
    p_reversed = kendalltau(e, t, alternative="less").pvalue
    slope = _ratio(e @ t, e @ e)
    error = _ratio(np.linalg.norm(e - t), np.linalg.norm(t))
    trusted, reason = _verdict(_rms(t), floor, tau, p_value, p_reversed, slope)
    return Agreement(
        rows, estimates, truth, _finite(tau), _finite(p_value), _finite(slope), _finite(error), floor, trusted, reason
    )


def _verdict(
    signal: float, floor: float, tau: float, p_value: float, p_reversed: float, slope: float
) -> tuple[bool, str]:
    """The rule of :func:`validate`; what a constant leaves undefined is NaN, and passes no test."""
    if not _ABOVE_FLOOR * floor < signal < math.inf:
        return False, (
            f"rounding: these rows' influences, {signal:.2g} (root mean square), are not {_ABOVE_FLOOR:g} times what "
            f"rounding alone does to the metric, {floor:.2g}; such a truth speaks neither for nor against the scores. "
            "Train in a wider data type, or validate rows of larger influence"
        )
    order = f"Kendall's tau is {tau:.2f} (p = {p_value:.2g})"
    if p_reversed <= _LEVEL:
        return False, f"sign: {order}: the scores put the rows in the opposite order"
    if not (round(tau, 9) >= _TAU and p_value <= _LEVEL):  # exactly 1/2 comes out a digit less
        undefined = "; all estimates, or all influences, are equal" if math.isnan(tau) else ""
        return False, f"order: {order}, where at least {_TAU:g} and p <= {_LEVEL:g} are asked{undefined}"
    if not _SLOPE[0] <= slope <= _SLOPE[1]:
        return False, f"size: the influences are {slope:.2g} times the scores, outside {_SLOPE[0]:g} to {_SLOPE[1]:g}"
    return True, f"{order}, the slope {slope:.2f}, and the influences are {signal / floor:.2g} times the noise floor"


def _with_influence(trace: Trace, start: int) -> list[int]:
    """The rows that have a weight, and a batch from step ``start`` on that holds them."""
    used = torch.zeros(trace.size, dtype=torch.bool)
    for t in range(start, trace.steps):
        indices = trace.batch(t).indices
        used[slice(None) if indices is None else indices.cpu()] = True
        if used.all():
            break
    return (used & (trace.weights != 0).cpu()).nonzero().flatten().tolist()


def _chosen(rows: int | Iterable[int], candidates: list[int], seed: int, n_rows: int) -> list[int]:
    if isinstance(rows, Iterable):
        named = check_removal(rows, n_rows, "rows")
        if len(named) < _FEWEST_ROWS:
            raise ValueError(f"rows must be at least {_FEWEST_ROWS}, since fewer show no order, got {named}")
        idle = sorted(set(named).difference(candidates))
        if idle:
            raise ValueError(
                f"rows contains {idle[0]}, whose influence is 0 by construction: it has weight 0, or is in no batch of "
                "these steps"
            )
        return named
    if not is_whole(rows):
        raise TypeError(f"rows must be how many to draw, such as 8, or a list of row indices, got {rows!r}")
    return _drawn("", candidates, "the rows of weight other than 0 in the batches of these steps", rows, seed)


def _chosen_groups(rows: Any, of_groups: dict[Any, list[int]], candidates: set[int], seed: int) -> list[Any]:
    influential = [name for name, own in of_groups.items() if not candidates.isdisjoint(own)]
    if is_whole(rows):
        return _drawn(" of groups", influential, "those with influence on these steps", rows, seed)
    named = list(rows) if isinstance(rows, Iterable) else []
    unknown = [name for name in named if name not in influential]
    if unknown or len(named) < _FEWEST_ROWS or len(set(named)) < len(named):
        what = f"{unknown[0]!r} is no group with influence" if unknown else f"got {rows!r}"
        raise ValueError(f"rows must be how many groups, or at least {_FEWEST_ROWS} of their names, each once: {what}")
    return named


def _drawn(of: str, candidates: list[Any], which: str, rows: int, seed: int) -> list[Any]:
    """So many of the candidates, in their order."""
    wanted = f"a number{of} from {_FEWEST_ROWS}, since fewer show no order, to {len(candidates)}, {which}"
    check(_FEWEST_ROWS <= rows <= len(candidates), "rows", wanted, rows)
    drawn = np.random.default_rng(seed).choice(len(candidates), rows, replace=False)
    return [candidates[k] for k in sorted(drawn)]


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _ratio(numerator: np.floating, denominator: np.floating) -> float:
    """NaN where the denominator is 0."""
    return float(numerator) / float(denominator) if denominator else math.nan


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"
