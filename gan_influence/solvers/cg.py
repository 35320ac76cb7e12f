"""Conjugate gradients, for a curvature that is symmetric and positive definite (Hestenes and Stiefel, 1952)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.sparse.linalg import cg
from torch import Tensor

from gan_influence.checks import check_whole
from gan_influence.finite import ConvergenceError
from gan_influence.solvers.divergence import positive, several_players
from gan_influence.solvers.gmres import check_tolerance
from gan_influence.solvers.protocol import Operator, Solution, row
from gan_influence.solvers.residuals import aim, limit, relative_residuals, worst
from gan_influence.solvers.spectrum import asymmetry, ends
from gan_influence.solvers.stacked import Stacked

__all__ = ["CG"]


@dataclass(frozen=True)
class CG:
    """``x`` with ``A^T x = b``, by ``scipy.sparse.linalg.cg``, all right-hand sides at once.

    ``A`` is the mean over batches that hold all rows, and must be symmetric and positive definite, as the Hessian of a
    game of one player is at a minimum, and with enough damping anywhere. Koh and Liang (2017) take it for their
    influence functions.

    Args:
        products: the most that are made, each with all right-hand sides, but for two.
        tolerance: of ``|A^T x - b| / |b|`` of each; by default as small as rounding lets it be.

    Raises:
        ValueError: ``products`` is no whole number >= 1, or ``tolerance`` is not above 0.
    """

    products: int = 1000
    tolerance: float | None = None

    def __post_init__(self) -> None:
        check_whole("products", self.products)
        check_tolerance(self.tolerance)

    def solve(self, operator: Operator, b: Float[Tensor, "k d"], *, progress: bool = False) -> Solution:
        """See :class:`gan_influence.solvers.Solver`.

        Raises:
            ValueError: rounding alone leaves more than ``tolerance``.
            ConvergenceError: ``A`` is not symmetric, or not positive definite.
        """
        accuracy = aim(b, self.tolerance)
        _check_symmetric(operator, b)
        curved = _Definite(operator)
        equations = Stacked(b, curved.product)
        found, _ = cg(
            equations.linear_operator(), equations.right_hand_side, rtol=0.0, atol=accuracy, maxiter=self.products
        )
        x = equations.solution(found)
        residual = relative_residuals(operator, x, b)
        converged, told = residual <= limit(b, self.tolerance), ""
        if not converged.all():
            left, at = worst(residual, operator)
            told = (
                f"CG left a relative residual of {left:.1e} after {equations.products} products at {at}, where it met "
                f"curvatures from {curved.least:.1e} to {curved.largest:.1e}: allow more products, or add damping"
            )
        return Solution(x, equations.products + 2, residual, converged, told)


class _Definite:
    """Products with ``A``, as long as it is positive definite along their vectors.

    Attributes:
        least, largest: of the curvatures ``<c, A c> / <c, c>`` so far.
    """

    def __init__(self, operator: Operator):
        self._operator, self.least, self.largest = operator, torch.inf, 0.0

    def product(self, c: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
        """``A c``.

        Raises:
            ConvergenceError: along one of the ``c`` the curvature is not above 0.
        """
        product = self._operator.transpose_product(c)
        wide = c.double()
        squares = wide.square().sum(1)
        curvature = torch.where(squares > 0, (wide * product).sum(1) / squares, torch.inf)
        self.least = min(self.least, float(curvature.min()))
        self.largest = max(self.largest, float(curvature.where(squares > 0, 0.0).max()))
        if (curvature <= 0).any():
            least = min(self.least, ends(self._operator, c[0])[0])
            raise ConvergenceError(
                f"CG needs a positive definite curvature, but found one of {self.least:.3g} along a direction at "
                f"{self._operator.where(curvature <= 0)}, and the least is {least:.3g}: {positive(least)}"
            )
        return product


def _check_symmetric(operator: Operator, b: Float[Tensor, "k d"]) -> None:
    if (products := asymmetry(operator, b[0])) is not None:
        raise ConvergenceError(
            f"CG needs a symmetric curvature, but at {operator.where(row(b, 0))} {several_players(*products)}"
        )
