"""The normal equations, for any matrix, by LSQR (Paige and Saunders, 1982)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from scipy.sparse.linalg import lsqr
from torch import Tensor

from gan_influence.checks import check, is_whole
from gan_influence.solvers.gmres import check_tolerance
from gan_influence.solvers.protocol import Operator, Solution
from gan_influence.solvers.residuals import aim, limit, relative_residuals, worst
from gan_influence.solvers.stacked import Stacked

__all__ = ["NormalEquations"]


@dataclass(frozen=True)
class NormalEquations:
    """``x`` with ``A A^T x = A b``, by ``scipy.sparse.linalg.lsqr``, all right-hand sides at once.

    Conjugate gradients on these equations, in a form that loses fewer digits to them. ``A A^T`` is never indefinite:
    ``A`` need be neither symmetric nor definite. The price is the square of its condition number, and two products an
    iteration, one with ``A`` and one with its transpose.

    Args:
        products: the most that are made, each with all right-hand sides, but for three.
        tolerance: of ``|A^T x - b| / |b|`` of each; by default as small as rounding lets it be.

    Raises:
        ValueError: ``products`` is no whole number >= 2, or ``tolerance`` is not above 0.
    """

    products: int = 1000
    tolerance: float | None = None

    def __post_init__(self) -> None:
        holds = is_whole(self.products) and self.products >= 2
        check(holds, "products", "a whole number >= 2, two an iteration", self.products)
        check_tolerance(self.tolerance)

    def solve(self, operator: Operator, b: Float[Tensor, "k d"], *, progress: bool = False) -> Solution:
        """See :class:`gan_influence.solvers.Solver`.

        Raises:
            ValueError: rounding alone leaves more than ``tolerance``.
        """
        equations, accuracy = Stacked(b, operator.transpose_product, operator.product), aim(b, self.tolerance)
        within = accuracy / max(len(b), 1) ** 0.5  # of the whole right-hand side, of norm sqrt(k)
        iterations = self.products // 2
        found, *_, condition, _, _, _ = lsqr(
            equations.linear_operator(),
            equations.right_hand_side,
            atol=0.0,
            btol=within,
            conlim=0.0,
            iter_lim=iterations,
        )
        x = equations.solution(found)
        residual = relative_residuals(operator, x, b)
        converged, told = residual <= limit(b, self.tolerance), ""
        if not converged.all():
            left, at = worst(residual, operator)
            told = (
                f"the normal equations left a relative residual of {left:.1e} after {equations.products} products at "
                f"{at}, of a matrix whose condition number is about {condition:.1e}: allow more products, add damping, "
                "or take solver='gmres', which does not square that number"
            )
        return Solution(x, equations.products + 1, residual, converged, told)
