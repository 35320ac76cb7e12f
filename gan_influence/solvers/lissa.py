"""LiSSA: the Neumann series with a fresh batch a term, averaged over repeats (Agarwal et al., 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from gan_influence.checks import check_positive, check_whole
from gan_influence.progress import shown
from gan_influence.solvers.divergence import advice, warn_of_cut
from gan_influence.solvers.gmres import check_tolerance
from gan_influence.solvers.protocol import Operator, Solution
from gan_influence.solvers.residuals import aim, check_reachable, numbers, relative_residuals, sizes, worst
from gan_influence.solvers.spectrum import Step, growth, steps_of

__all__ = ["LiSSA"]

_DEEPEST = 20_000  # steps, where only a tolerance is given
_LOOK_EVERY = 20  # steps; with minibatches to look takes an epoch's product
_LOOKS = 10  # without a smaller residual, after which none is to come
_GROWN = 1e4  # what a step adds, relative to b, above which a recursion diverges


class _Run(NamedTuple):
    """One repeat: its x, its steps, how many looks at it took a product, and whether it diverged."""

    x: Float[Tensor, "k d"]
    steps: int
    looks: int
    grown: bool


@dataclass(frozen=True)
class LiSSA:
    """``x = h / s``, in the mean over repeats, where the recursion ``h <- b + (I - A_m / s)^T h`` leads from ``h = b``.

    Koh and Liang's code has ``h <- b + (1 - d) h - H h / s`` and by default ``s = 10``, ``d = 0.01``, 10 000 steps:
    ``LiSSA(scale=10, depth=10_000, minibatches=True, tolerance=None)`` with ``damping = d s = 0.1``, for here damping
    is a part of ``A``. The recursion converges if all eigenvalues of ``A`` are between 0 and 2 s.

    Args:
        scale: s; by default what a power iteration gives, the largest eigenvalue of ``A``, or with minibatches twice
            the largest factor by which one of them makes a vector longer.
        depth: steps of the recursion, a product each; by default as many as ``tolerance`` takes, up to 20 000 and as
            long as the residual gets smaller.
        repeats: of the recursion, each with fresh minibatches.
        minibatches: is ``A_m`` that of the m-th fresh batch? By default it is ``A``, the mean over batches that hold
            all rows, and then x has a limit.
        tolerance: of ``|A^T x - b| / |b|`` of each; ``None`` takes x as it is after ``depth`` steps, with a warning
            where the residual is above a tenth.

    Raises:
        ValueError: a number that is none; ``repeats`` without minibatches, which would all be the same; neither
            ``depth`` nor ``tolerance``.
    """

    scale: float | None = None
    depth: int | None = None
    repeats: int = 1
    minibatches: bool = False
    tolerance: float | None = 1e-6

    def __post_init__(self) -> None:
        if self.scale is not None:
            check_positive("scale", self.scale)
        if self.depth is not None:
            check_whole("depth", self.depth)
        check_whole("repeats", self.repeats)
        check_tolerance(self.tolerance)
        if self.repeats > 1 and not self.minibatches:
            raise ValueError(
                f"repeats={self.repeats} of steps that all see the same rows would all be the same: give "
                "minibatches=True, or leave repeats out"
            )
        if self.depth is None and self.tolerance is None:
            raise ValueError("without tolerance= there is no end to find: give depth=, the steps of the recursion")

    def solve(self, operator: Operator, b: Float[Tensor, "k d"], *, progress: bool = False) -> Solution:
        """See :class:`gan_influence.solvers.Solver`.

        Raises:
            ValueError: rounding alone leaves more than ``tolerance``, or the schedule does not go on for so long.
        """
        if self.tolerance is not None:
            check_reachable(b, self.tolerance)
        if self.minibatches and self.depth is not None:
            operator.check_series(self.repeats * self.depth + 1)
        step = steps_of(operator, self.minibatches)
        scale, products = self.scale, 0
        if scale is None:
            largest, products = growth(step, b[0])
            scale = self._of(largest)
        runs: list[_Run] = []
        for _ in range(self.repeats):
            runs.append(self._run(operator, step, b, scale, sum(run.steps for run in runs), progress))
        x = torch.stack([run.x for run in runs]).mean(0)
        residual = relative_residuals(operator, x, b)
        converged, told = self._judged(operator, b, residual, scale, runs)
        return Solution(x, products + sum(run.steps + run.looks for run in runs) + 1, residual, converged, told)

    def _of(self, largest: float) -> float:
        """The scale for a largest curvature."""
        return (2 * largest if self.minibatches else largest) or 1.0

    def _would_do(self, largest: float) -> str:
        return f"the scale must be above {largest / 2:.3g}, and scale={self._of(largest):.3g} would do"

    def _run(
        self, operator: Operator, step: Step, b: Float[Tensor, "k d"], scale: float, first: int, progress: bool
    ) -> _Run:
        within = None if self.tolerance is None or self.depth is not None else aim(b, self.tolerance)
        eta, h, looks, n, grown = b.new_full(b.shape[-1:], 1 / scale), b, [torch.inf], 0, False
        for n in tqdm(range(1, (self.depth or _DEEPEST) + 1), desc="lissa", unit="step", disable=not shown(progress)):
            before, h = h, b + step(first + n - 1, h, eta)
            left = float(((h - before).double().norm(dim=1) / sizes(b)).max())  # of the x before, where A_m is A
            grown = not left <= _GROWN
            if grown:
                break
            if within is not None and n % _LOOK_EVERY == 0:
                looks.append(float(relative_residuals(operator, h / scale, b).max()) if self.minibatches else left)
                if _ends(looks, within):
                    break
        return _Run(h / scale, n, (len(looks) - 1) * self.minibatches, grown)

    def _judged(
        self, operator: Operator, b: Float[Tensor, "k d"], residual: Float[Tensor, " k"], scale: float, runs: list[_Run]
    ) -> tuple[Tensor | None, str]:
        left, at = worst(residual, operator)
        after = f"with scale={scale:.3g} after {numbers(sum(run.steps for run in runs), 'step')} at {at}"
        grown = any(run.grown for run in runs)
        if self.tolerance is None and not grown:
            warn_of_cut("LiSSA", left, after)
            return None, ""
        converged = residual <= (self.tolerance or 0.0)
        if grown or not left < 1:  # x = 0 would be as good
            told = f"LiSSA diverged {after}: it left a relative residual of {left:.1e}. "
            return converged, told + advice(operator, steps_of(operator, self.minibatches), b, self._would_do)
        if converged.all():
            return converged, ""
        fix = "allow more depth, add damping, or take solver='cg'"
        if self.minibatches:
            fix = "minibatches leave noise: take more repeats, a larger scale and more depth, or minibatches=False"
        return converged, f"LiSSA left a relative residual of {left:.1e} {after}, not {self.tolerance:g}: {fix}"


def _ends(looks: list[float], within: float) -> bool:
    """Is the last residual small enough, or is there none smaller to come?"""
    return looks[-1] <= within or (len(looks) > _LOOKS and min(looks[-_LOOKS:]) >= min(looks[:-_LOOKS]))
