"""Scores and whether they are to be trusted, kept in files so that they are computed once."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gan_influence.aid import aid
from gan_influence.history import DamagedFileError, Folder
from gan_influence.identity import described
from gan_influence.itd import itd
from gan_influence.tool.arguments import Settings
from gan_influence.tool.problem import Problem
from gan_influence.trace import Trace
from gan_influence.validation import Agreement, validate

__all__ = ["advice", "estimated", "score", "trust"]

_SHORTEST = 5  # steps: over fewer hardly a row is seen


def score(problem: Problem, settings: Settings, trace: Trace, last: int | None, folder: Path | None = None) -> Tensor:
    """Each row's ``metric(after removal) - metric(before)``, on the CPU.

    Raises:
        ValueError, TypeError: the metric cannot be scored; scores are not finite.
    """
    bar = folder is not None and not settings.quiet

    def scores() -> dict[str, Tensor]:
        return {"scores": estimated(settings.estimator, problem, settings, trace, last, bar)}

    asked = (settings.estimator, last if settings.estimator == "itd" else settings.terms)
    return _kept(folder, "scores", (problem.metric, *asked), scores)["scores"]


def estimated(
    estimator: str, problem: Problem, settings: Settings, trace: Trace, last: int | None, progress: bool
) -> Tensor:
    """Scores by ``"itd"``, traced back through the last steps, or by ``"aid"``, of so many terms; on the CPU."""
    if estimator == "itd":
        return itd(trace, problem.metric, last=last, progress=progress).cpu()
    return aid(trace, problem.metric, terms=settings.terms, progress=progress).cpu()


def trust(
    problem: Problem, settings: Settings, trace: Trace, scores: Float[Tensor, " N"], last: int | None, folder: Path
) -> Agreement:
    """Retrain without a few rows, and compare.

    Raises:
        ValueError: fewer rows than asked for have an influence.
        DivergenceError: a retraining diverged.
    """

    def agreement() -> dict[str, Any]:
        found = validate(
            trace, problem.metric, scores, settings.rows, settings.seed, last=last, progress=not settings.quiet
        )
        return asdict(found)

    found = _kept(folder, "trust", (problem.metric, scores, settings.rows, settings.seed, last), agreement)
    return Agreement(**found)


def advice(problem: Problem, settings: Settings, last: int | None) -> str:
    """What to try where scores are not to be trusted: fewer steps first, then smaller ones."""
    window = problem.steps if last is None else last
    shorter = max(window // 4, _SHORTEST)
    rate = getattr(problem.optimizer, "lr", None)
    lower = f"--lr {rate / 5:g}" if settings.game is None and isinstance(rate, float) else "a lower learning rate"
    if window <= _SHORTEST:
        return f"{window} steps were traced back: try {lower}"
    return f"{window} of {problem.steps} steps were traced back: try --last {shorter}, then {lower} besides"


def _kept(folder: Path | None, name: str, asked: tuple[Any, ...], compute: Any) -> dict[str, Any]:
    """What is in the folder for this, or else computed and put there."""
    if folder is None:
        return compute()
    files, file = Folder(folder), f"{name}-{described(*asked, torch.__version__)}.pt"
    if (folder / file).exists():
        try:
            return files.read(file)
        except DamagedFileError:
            files.remove(file)
    found = compute()
    files.write(file, found)
    return found
