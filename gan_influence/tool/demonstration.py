"""What is found of planted contamination, by the estimators and by what one compares with."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from gan_influence.baselines import by_chance, by_isolation_forest
from gan_influence.counterfactual import counterfactual
from gan_influence.harmfulness import harmfulness
from gan_influence.tool.arguments import Settings
from gan_influence.tool.planting import precision_and_recall
from gan_influence.tool.problem import Problem
from gan_influence.tool.scoring import estimated
from gan_influence.trace import Trace

__all__ = ["Found", "found_by_methods", "harm_of_planted", "shown"]


class Found(NamedTuple):
    """Of the rows that a method removes first, as many as are asked for."""

    method: str
    precision: float
    recall: float


def found_by_methods(
    problem: Problem, settings: Settings, trace: Trace, scores: Float[Tensor, " N"], last: int | None, count: int
) -> list[Found]:
    """Precision and recall of the ``count`` most harmful rows."""
    other = "aid" if settings.estimator == "itd" else "itd"
    by = {
        settings.estimator: scores,
        other: estimated(other, problem, settings, trace, last, not settings.quiet),
    }
    harm = {
        "ITD": harmfulness(by["itd"], problem.metric),
        "AID": harmfulness(by["aid"], problem.metric),
        "isolation forest": by_isolation_forest(problem.features, settings.seed)(trace, problem.metric).cpu(),
        "random": by_chance(settings.seed)(trace, problem.metric),
    }
    assert problem.planted is not None
    found = []
    for method, values in harm.items():
        first = values.argsort(descending=True, stable=True)[:count]
        found.append(Found(method, *precision_and_recall(first, problem.planted)))
    return found


def harm_of_planted(
    problem: Problem, settings: Settings, trace: Trace, scores: Float[Tensor, " N"], last: int | None
) -> str:
    """Do the planted rows do harm at all? All of them are left out of a retraining."""
    assert problem.planted is not None
    truth = float(counterfactual(trace, problem.metric, [problem.planted], last, progress=not settings.quiet)[0])
    better = "larger" if problem.metric.larger_is_better else "smaller"
    return (
        f"Retrained without all planted rows the metric changes by {truth:+.3g} ({better} is better); the sum of their "
        f"scores says {float(scores[problem.planted].sum()):+.3g}."
    )


def shown(found: list[Found], count: int, planted: int) -> str:
    """As a table."""
    lines = [f"{planted} rows were planted; of the {count} that each method removes first:"]
    lines.append(f"  {'':<17}  precision  recall")
    lines += [f"  {method:<17}  {precision:>9.2f}  {recall:>6.2f}" for method, precision, recall in found]
    return "\n".join(lines)
