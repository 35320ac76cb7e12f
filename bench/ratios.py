"""Timing two things against each other: interleaved, so that a machine that speeds up or slows down favours neither."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

__all__ = ["Case", "Measured", "measure"]

Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A ratio of two times.

    Attributes:
        name: ``"numerator / denominator"``.
        game: what it is measured on.
        limit: ``(bound, value)``, what the ratio should be: ``("<=", 1.1)`` or ``(">=", 20.0)``.
        prepare: ``device -> (numerator, denominator, factor)``: two calls, and by how much the first call's time
            is multiplied, where it does only a part of the work. What happens once a process it has done already.
    """

    name: str
    game: str
    limit: tuple[str, float]
    prepare: Callable[[str], tuple[Call, Call, float]]

    def holds(self, ratio: float) -> bool:
        bound, value = self.limit
        return ratio <= value if bound == "<=" else ratio >= value


@dataclass(frozen=True)
class Measured:
    """Seconds of both calls in every pair."""

    numerator: list[float]
    denominator: list[float]

    @property
    def ratios(self) -> np.ndarray:
        return np.array(self.numerator) / np.array(self.denominator)

    def summary(self) -> dict[str, float]:
        """Median, lowest and highest ratio over the pairs, and both median times in seconds."""
        return {
            "median": float(np.median(self.ratios)),
            "low": float(self.ratios.min()),
            "high": float(self.ratios.max()),
            "numerator_seconds": float(np.median(self.numerator)),
            "denominator_seconds": float(np.median(self.denominator)),
        }


def measure(case: Case, device: str, pairs: int) -> Measured:
    """Time ``pairs`` pairs in turn, A B A B."""
    numerator, denominator, factor = case.prepare(device)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(pairs):
        times[0].append(factor * _seconds(numerator, device))
        times[1].append(_seconds(denominator, device))
    return Measured(*times)


def _seconds(call: Call, device: str) -> float:
    begun = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun
