"""Scores and products that are NaN or infinite are an error that says which, not a result."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

__all__ = ["ConvergenceError", "NotFiniteError", "check_product", "check_scores"]


class ConvergenceError(RuntimeError):
    """A series or solver did not converge; the message says at which step of training and what to do."""


class NotFiniteError(ConvergenceError, ValueError):
    """Derivatives are NaN or infinite: there is nothing to converge to."""


_CAUSES = (
    "a second derivative of the players, the loss or a penalty is not finite there, as those of norm(), sqrt() and "
    "abs() ** p are at 0: add a small number under the root, or look at the rows of these steps"
)


def check_product(product: Float[Tensor, "*stops d"], cotangent: Float[Tensor, "*stops d"]) -> None:
    """``J^T c`` of a finite ``c`` is finite.

    Raises:
        NotFiniteError: it is not.
    """
    if not product.isfinite().all() and cotangent.isfinite().all():
        bad = int((~product.isfinite()).sum())
        raise NotFiniteError(f"{bad} of the {product.numel()} numbers of J^T c are NaN or infinite: {_CAUSES}")


def check_scores(scores: Float[Tensor, "*stops N"], estimator: str) -> None:
    """Every score is a number.

    Raises:
        NotFiniteError: some are not; it says how many and the first one's row.
    """
    bad = ~scores.isfinite()
    if bad.any():
        rows = bad.reshape(-1, scores.shape[-1]).any(0).nonzero()
        raise NotFiniteError(
            f"{estimator} gives {len(rows)} of {scores.shape[-1]} rows a score that is NaN or infinite, first row "
            f"{int(rows[0])}: {_CAUSES}"
        )
