"""Did removing rows help? Before and after, on latents and rows that chose nothing, beside as many random rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from gan_influence.counterfactual import counterfactual
from gan_influence.history import Checkpoint
from gan_influence.metrics.metric import measure
from gan_influence.tool.arguments import Settings
from gan_influence.tool.problem import Problem
from gan_influence.trace import Trace
from gan_influence.training import retrain

__all__ = ["DRAWS", "Judgement", "judged", "save_generator"]

DRAWS = 3
_LEVEL = 0.95


@dataclass(frozen=True)
class Judgement:
    """What removing did to the metric.

    Attributes:
        before, after: the metric, mean over the sets of latents.
        change, low, high: ``after - before`` and its 95 % interval (Student's t over the sets); NaN where there is one.
        sets: of latents.
        controls: the change without as many random rows, of each draw.
        held_out: on latents and rows that scores have not seen.
        larger_is_better: of the metric.
    """

    before: float
    after: float
    change: float
    low: float
    high: float
    sets: int
    controls: tuple[float, ...]
    held_out: bool
    larger_is_better: bool

    @property
    def is_clear(self) -> bool:
        """The whole interval is on the better side, and beyond the random removals."""
        return min(self._sign * self.low, self._sign * self.high) > 0 and self._beats_chance

    @property
    def _sign(self) -> int:
        return 1 if self.larger_is_better else -1

    @property
    def _beats_chance(self) -> bool:
        return self._sign * self.change > max(self._sign * control for control in self.controls)

    @property
    def verdict(self) -> str:
        """In a sentence."""
        ends = sorted((self._sign * self.low, self._sign * self.high))
        if math.isnan(self.low):
            better = "better" if self._sign * self.change > 0 else "no better"
        else:
            better = "better" if ends[0] > 0 else "worse" if ends[1] < 0 else "no different, as far as can be told"
        than = "no random removal did as much good" if self._beats_chance else "a random removal did as much good"
        return f"After cleansing the generator is {better}; {than} ({len(self.controls)} were tried)."


def judged(
    problem: Problem, settings: Settings, trace: Trace, removed: list[int], last: int | None, folder: Path
) -> tuple[Trace, Judgement]:
    """Retrain without the rows, and without as many random ones.

    Raises:
        DivergenceError: a retraining diverged.
    """
    metrics = problem.held_out or (problem.metric,)
    cleansed = retrain(trace, removed, last, memory=Checkpoint(folder=folder), progress=not settings.quiet)
    before, after = (np.array([float(measure(one, run)) for one in metrics]) for run in (trace, cleansed))
    rng = np.random.default_rng([settings.seed, 8])
    draws = [sorted(rng.choice(problem.size, len(removed), replace=False).tolist()) for _ in range(DRAWS)]
    random = counterfactual(trace, list(metrics), draws, last, progress=not settings.quiet)
    change, low, high = _interval(after - before)
    return cleansed, Judgement(
        float(before.mean()),
        float(after.mean()),
        change,
        low,
        high,
        len(metrics),
        tuple(random.double().mean(0).tolist()),
        bool(problem.held_out),
        problem.metric.larger_is_better,
    )


def _interval(differences: np.ndarray) -> tuple[float, float, float]:
    mean, n = float(differences.mean()), len(differences)
    if n < 2:
        return mean, math.nan, math.nan
    half = float(student.ppf((1 + _LEVEL) / 2, n - 1) * differences.std(ddof=1) / math.sqrt(n))
    return mean, mean - half, mean + half


def save_generator(trace: Trace, out: Path) -> str:
    """Write the parameters that the metric sees, of a generator, or of all players in a game without one.

    Returns:
        The file's name: ``.safetensors`` where that package is there.
    """
    names = [name for name in trace.game.players if name == "generator"] or list(trace.game.players)
    modules = {name: trace.module(name, averaged=True).state_dict() for name in names}
    content = modules["generator"] if names == ["generator"] else _flat(modules)
    stem = "generator" if names == ["generator"] else "players"
    try:
        from safetensors.torch import save_file
    except ImportError:
        torch.save(content, out / f"{stem}.pt")
        return f"{stem}.pt"
    save_file({name: value.contiguous() for name, value in content.items()}, out / f"{stem}.safetensors")
    return f"{stem}.safetensors"


def _flat(modules: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{name}.{own}": value for name, values in modules.items() for own, value in values.items()}
