"""What a cleansing takes in time and memory, from a few steps of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil

from gan_influence import trees
from gan_influence.counterfactual import counterfactual
from gan_influence.tool.arguments import Settings
from gan_influence.tool.judging import DRAWS
from gan_influence.tool.problem import Problem
from gan_influence.tool.scoring import score
from gan_influence.tool.training import trained
from gan_influence.trace import Trace

__all__ = ["Estimate", "estimate"]

_FEW, _MORE = 5, 25
_REPLICAS = 4
_MIB = 2**20


@dataclass(frozen=True)
class Estimate:
    """Seconds of each stage, and bytes."""

    seconds: dict[str, float]
    memory: int
    files: int

    def __str__(self) -> str:
        width = max(map(len, self.seconds))
        stages = [f"  {name:<{width}}  {shown_seconds(value)}" for name, value in self.seconds.items()]
        return "\n".join(
            [
                f"about {shown_seconds(sum(self.seconds.values()))} on this machine, as busy as it is now",
                *stages,
                f"about {self.memory / _MIB:.0f} MiB of memory, and {self.files / _MIB:.0f} MiB of checkpoints",
            ]
        )


def estimate(problem: Problem, settings: Settings, last: int | None) -> Estimate:
    """Time a few steps of each stage: the difference of more of them and of fewer, without what comes once.

    Args:
        problem, settings: what would be run.
        last: how many last steps are traced back.
    """
    few, more = (trained(problem, settings, steps=steps) for steps in (_FEW, _MORE))
    window = problem.steps if last is None else last
    of_state = sum(leaf.numel() * leaf.element_size() for leaf in trees.leaves(more.state()))
    segment = math.isqrt(problem.steps) + 1
    seconds = {
        "training": _a_step(lambda trace: trained(problem, settings, steps=trace.steps), few, more) * problem.steps,
        "scores": _of_scores(problem, settings, few, more, window),
        "trust": _a_step(lambda trace: _retrained(trace, problem.metric, settings.rows + _REPLICAS), few, more)
        * window,
    }
    if settings.retrain:
        one = _a_step(lambda trace: _retrained(trace, problem.metric, 1 + DRAWS), few, more)
        seconds["retraining"] = one * window
    memory = psutil.Process().memory_info().rss + segment * of_state
    return Estimate(seconds, memory, segment * of_state)


def _of_scores(problem: Problem, settings: Settings, few: Trace, more: Trace, window: int) -> float:
    if settings.estimator == "aid":
        return _seconds(lambda: score(problem, settings, more, None))
    return _a_step(lambda trace: score(problem, settings, trace, None), few, more) * window


def _retrained(trace: Trace, metric: Any, models: int) -> None:
    """So many models, from the first step on."""
    indices = trace.batch(0).indices
    rows = range(models) if indices is None else indices[:models].tolist()
    counterfactual(trace, metric, [[row] for row in rows])


def _a_step(work: Callable[[Trace], object], few: Trace, more: Trace) -> float:
    """Seconds a step of the game."""
    took = [_seconds(partial(work, trace)) for trace in (few, more)]
    return max(took[1] - took[0], took[1] / _MORE / 10) / (_MORE - _FEW)


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def shown_seconds(seconds: float) -> str:
    """``40 s`` or ``3 min``, or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
