"""What is found of planted contamination, by estimators and by what one compares with, and what removing it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from gan_influence.baselines import by_chance, by_isolation_forest
from gan_influence.counterfactual import counterfactual
from gan_influence.harmfulness import harmfulness
from gan_influence.metrics.metric import measure
from gan_influence.tool.arguments import Settings
from gan_influence.tool.planting import precision_and_recall
from gan_influence.tool.problem import Problem
from gan_influence.tool.scoring import estimated
from gan_influence.trace import Trace

__all__ = ["Demonstration", "Found", "demonstrated"]


class Found(NamedTuple):
    """Of the rows that a method removes first, as many as were planted; and the held-out metric without them."""

    method: str
    precision: float
    recall: float
    after: float


@dataclass(frozen=True)
class Demonstration:
    """What was found, and how much of the metric of clean data removing it brings back.

    Attributes:
        planted: how many rows were spoilt.
        before, clean: the held-out metric of all rows, and after retraining without all planted ones.
        found: of each method; the last one draws at random.
        larger_is_better: of the metric.
    """

    planted: int
    before: float
    clean: float
    found: tuple[Found, ...]
    larger_is_better: bool

    @property
    def does_harm(self) -> bool:
        """Is the metric better without the planted rows than without as many random ones, and than with all?"""
        sign = 1 if self.larger_is_better else -1
        return sign * self.clean > max(sign * self.before, sign * self.found[-1].after)

    def recovered(self, after: float) -> float:
        """The share of the way from ``before`` to ``clean``."""
        return (after - self.before) / (self.clean - self.before)

    @property
    def in_words(self) -> str:
        """What removing all planted rows does."""
        better = "larger" if self.larger_is_better else "smaller"
        told = f"Without all planted rows the held-out metric is {self.clean:.3g} ({better} is better)"
        if self.does_harm:
            return f"{told}: they do harm, and there is something to recover."
        return (
            f"{told}: no better than with them, or than without as many random ones. They do no harm that it can see."
        )

    def __str__(self) -> str:
        lines = [
            f"{self.planted} rows were planted. Of the {self.planted} that each method removes first, and retrained "
            "without them:",
            f"  {'':<17}  precision  recall  held-out metric" + ("  recovered" if self.does_harm else ""),
            f"  {'nothing removed':<17}  {'':>9}  {'':>6}  {self.before:>15.3f}",
        ]
        for method, precision, recall, after in (*self.found, Found("all planted", 1.0, 1.0, self.clean)):
            share = f"  {self.recovered(after):>9.0%}" if self.does_harm else ""
            lines.append(f"  {method:<17}  {precision:>9.2f}  {recall:>6.2f}  {after:>15.3f}{share}")
        return "\n".join([*lines, self.in_words])


def demonstrated(
    problem: Problem, settings: Settings, trace: Trace, scores: Float[Tensor, " N"], last: int | None
) -> Demonstration:
    """Let each method name as many rows as were planted, and retrain without them, over the steps that are scored.

    Raises:
        DivergenceError: a retraining diverged.
    """
    mask = problem.planted
    assert mask is not None
    count = int(mask.sum())
    first = {
        method: harm.argsort(descending=True, stable=True)[:count].tolist()
        for method, harm in _harm(problem, settings, trace, scores, last).items()
    }
    removals = [*first.values(), mask.nonzero().flatten().tolist()]
    metrics = list(problem.held_out)
    before = sum(float(measure(metric, trace)) for metric in metrics) / len(metrics)
    changes = counterfactual(trace, metrics, removals, last, progress=not settings.quiet).double().mean(0)
    *after, clean = (before + changes).tolist()
    found = tuple(
        Found(method, *precision_and_recall(rows, mask), value)
        for (method, rows), value in zip(first.items(), after, strict=True)
    )
    return Demonstration(count, before, clean, found, problem.metric.larger_is_better)


def _harm(
    problem: Problem, settings: Settings, trace: Trace, scores: Float[Tensor, " N"], last: int | None
) -> dict[str, Float[Tensor, " N"]]:
    """By each method; the scores that are there already are not computed again."""
    other = "aid" if settings.estimator == "itd" else "itd"
    by = {settings.estimator: scores, other: estimated(other, problem, settings, trace, last, not settings.quiet)}
    return {
        "ITD": harmfulness(by["itd"], problem.metric),
        "AID": harmfulness(by["aid"], problem.metric),
        "isolation forest": by_isolation_forest(problem.features, settings.seed)(trace, problem.metric).cpu(),
        "random": by_chance(settings.seed)(trace, problem.metric),
    }
