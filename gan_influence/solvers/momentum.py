"""Gradient descent with momentum on the quadratic ``x^T A x / 2 - b^T x`` (Hara et al. 2019, their baseline K&L)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from gan_influence.checks import check, check_positive, check_whole, is_real
from gan_influence.progress import shown
from gan_influence.solvers.divergence import advice, warn_of_cut
from gan_influence.solvers.gmres import check_tolerance
from gan_influence.solvers.protocol import Operator, Solution
from gan_influence.solvers.residuals import check_reachable, numbers, relative_residuals, sizes, worst
from gan_influence.solvers.spectrum import growth, steps_of

__all__ = ["Momentum"]

_STARTS = ("b", "zero")
_GROWN = 1e4  # the residual, relative to the first one, above which it diverges


@dataclass(frozen=True)
class Momentum:
    """``v <- mu v + A^T x - b``, ``x <- x - rate v``, so many times: SGD with momentum on the quadratic of ``A``.

    With its defaults it is what SGD-influence's published code calls K&L in its section 7.1, which it ends after 100
    steps whatever is left. It converges for a symmetric ``A`` with all eigenvalues between 0 and ``2 (1 + mu) / rate``.

    Args:
        steps: the most that are taken, a product each.
        rate: of descent; ``None`` takes ``(1 + mu)`` over the largest eigenvalue, from a power iteration.
        momentum: mu, at least 0 and below 1.
        start: ``"b"``: from x = b, as that code does; ``"zero"``.
        minibatches: does step m take the m-th fresh batch? By default each takes the mean over batches that hold all
            rows.
        tolerance: of ``|A^T x - b| / |b|`` of each, to end at. By default x is taken as it is after ``steps``, with a
            warning where the residual is above a tenth.

    Raises:
        ValueError: a setting that is none of these.
    """

    steps: int = 100
    rate: float | None = 0.01
    momentum: float = 0.9
    start: str = "b"
    minibatches: bool = False
    tolerance: float | None = None

    def __post_init__(self) -> None:
        check_whole("steps", self.steps)
        if self.rate is not None:
            check_positive("rate", self.rate)
        holds = is_real(self.momentum) and 0 <= self.momentum < 1
        check(holds, "momentum", "a number >= 0 and below 1", self.momentum)
        check(self.start in _STARTS, "start", f"one of {', '.join(_STARTS)}", self.start)
        check_tolerance(self.tolerance)

    def solve(self, operator: Operator, b: Float[Tensor, "k d"], *, progress: bool = False) -> Solution:
        """See :class:`gan_influence.solvers.Solver`.

        Raises:
            ValueError: rounding alone leaves more than ``tolerance``, or the schedule does not go on for so long.
        """
        if self.tolerance is not None:
            check_reachable(b, self.tolerance)
        if self.minibatches:
            operator.check_series(self.steps + 1)
        step = steps_of(operator, self.minibatches)
        rate, products = self.rate, 0
        if rate is None:
            largest, products = growth(step, b[0])
            rate = self._of(largest)
        x, v, one = (
            (b.clone() if self.start == "b" else torch.zeros_like(b)),
            torch.zeros_like(b),
            torch.ones_like(b[0]),
        )
        n, first, grown, norms = 0, 0.0, False, sizes(b)
        for n in tqdm(range(1, self.steps + 1), desc="momentum", unit="step", disable=not shown(progress)):
            gradient = x - step(n - 1, x, one) - b
            v = self.momentum * v + gradient
            x = x - rate * v
            left = float((gradient.double().norm(dim=1) / norms).max())
            first = first or max(left, 1.0)
            grown = not left <= _GROWN * first
            if grown or (self.tolerance is not None and left <= self.tolerance / 2):
                break
        residual = relative_residuals(operator, x, b)
        converged, told = self._judged(operator, b, residual, grown, f"with rate={rate:.3g} after {numbers(n, 'step')}")
        return Solution(x, products + n + 1, residual, converged, told)

    def _of(self, largest: float) -> float:
        """Half the largest rate that converges, for a largest curvature."""
        return (1 + self.momentum) / (largest or 1.0)

    def _would_do(self, largest: float) -> str:
        rate = self._of(largest)
        return f"the rate must be below {2 * rate:.3g}, and rate={rate:.3g} would do"

    def _judged(
        self, operator: Operator, b: Float[Tensor, "k d"], residual: Float[Tensor, " k"], grown: bool, settings: str
    ) -> tuple[Tensor | None, str]:
        left, at = worst(residual, operator)
        after = f"{settings} at {at}"
        if self.tolerance is None and not grown:
            warn_of_cut("gradient descent", left, after)
            return None, ""
        converged = residual <= (self.tolerance or 0.0)
        if grown or not left < 1:  # x = 0 would be as good
            told = advice(operator, steps_of(operator, self.minibatches), b, self._would_do)
            return converged, f"gradient descent diverged {after}: it left a relative residual of {left:.1e}. {told}"
        if converged.all():
            return converged, ""
        fix = "allow more steps, rate=None for the largest one, add damping, or take solver='cg'"
        return (
            converged,
            f"gradient descent left a relative residual of {left:.1e} {after}, not {self.tolerance:g}: {fix}",
        )
