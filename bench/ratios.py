"""Timing two things against each other: interleaved, so that a machine that speeds up or slows down favours neither."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from gan_influence.replay import recorded

__all__ = ["Case", "Measured", "measure"]

Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A ratio of two times.

    Attributes:
        name: ``"numerator / denominator"``.
        game: what it is measured on.
        limit: ``(bound, value)``, what the ratio should be: ``("<=", 1.1)`` or ``(">=", 20.0)``; ``None`` where it is
            measured only.
        prepare: ``device -> (numerator, denominator, factor)``: two calls, and by how much the first call's time
            is multiplied, where it does only a part of the work. What happens once a process it has done already.
    """

    name: str
    game: str
    limit: tuple[str, float] | None
    prepare: Callable[[str], tuple[Call, Call, float]]

    @property
    def target(self) -> str | None:
        return None if self.limit is None else f"{self.limit[0]} {self.limit[1]:g}"

    def holds(self, ratio: float) -> bool | None:
        """Is the target met, if there is one?"""
        if self.limit is None:
            return None
        bound, value = self.limit
        return ratio <= value if bound == "<=" else ratio >= value


@dataclass(frozen=True)
class Measured:
    """Seconds of both calls in every pair; and of the processor, which on a busy machine are fewer than have passed."""

    numerator: list[float]
    denominator: list[float]
    processor: tuple[list[float], list[float]]

    @property
    def ratios(self) -> np.ndarray:
        return np.array(self.numerator) / np.array(self.denominator)

    def summary(self) -> dict[str, float]:
        """Median, lowest and highest ratio over the pairs, both median times in seconds, the processor's median ratio.

        On a GPU the processor's is the ratio of what it takes to keep the GPU busy.
        """
        return {
            "median": float(np.median(self.ratios)),
            "low": float(self.ratios.min()),
            "high": float(self.ratios.max()),
            "numerator_seconds": float(np.median(self.numerator)),
            "denominator_seconds": float(np.median(self.denominator)),
            "processor_median": float(np.median(np.divide(*self.processor))),
        }


def measure(case: Case, device: str, pairs: int) -> Measured:
    """Time ``pairs`` pairs in turn, A B A B."""
    numerator, denominator, factor = case.prepare(device)
    gc.collect()  # what preparing left is not to be collected in the first call
    passed: tuple[list[float], list[float]] = ([], [])
    processor: tuple[list[float], list[float]] = ([], [])
    with _as_in_a_long_run():
        for _ in range(pairs):
            for k, (call, times) in enumerate(((numerator, factor), (denominator, 1.0))):
                seconds, of_processor = _seconds(call, device)
                passed[k].append(times * seconds)
                processor[k].append(times * of_processor)
    return Measured(*passed, processor)


@contextmanager
def _as_in_a_long_run() -> Iterator[None]:
    """Replays are compared with their functions at calls 1, 2, 4, 8 and so on: here that would hit some pairs."""
    compared = recorded._Compared.holds
    recorded._Compared.holds = lambda self, *tensors: not self._is_given_up  # type: ignore[method-assign]
    try:
        yield
    finally:
        recorded._Compared.holds = compared  # type: ignore[method-assign]


def _seconds(call: Call, device: str) -> tuple[float, float]:
    """What passed, and what the processor spent, in all threads."""
    begun = time.perf_counter(), time.process_time()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun[0], time.process_time() - begun[1]
