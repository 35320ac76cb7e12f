"""How near a solution is: residuals, and the tolerances that may be asked of them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gan_influence.solvers.protocol import Operator, row

__all__ = ["ROUNDING", "aim", "check_reachable", "limit", "numbers", "relative_residuals", "sizes", "worst"]

ROUNDING = 1e3  # how far above the accuracy that a solver strives for by default its residual may be


def aim(b: Tensor, tolerance: float | None) -> float:
    """What a solver that knows its residual roughly strives for: half the tolerance, or as little as rounding allows.

    Raises:
        ValueError: rounding alone leaves more than the tolerance.
    """
    if tolerance is None:
        return 1e-12 if b.dtype == torch.float64 else 1e-6
    check_reachable(b, tolerance)
    return tolerance / 2


def limit(b: Tensor, tolerance: float | None) -> float:
    """The largest relative residual of a solution that has converged."""
    return ROUNDING * aim(b, None) if tolerance is None else tolerance


def check_reachable(b: Tensor, tolerance: float) -> None:
    """Can a solution in this type be so near?

    Raises:
        ValueError: it cannot.
    """
    rounding = torch.finfo(b.dtype).eps
    if tolerance < rounding:
        raise ValueError(
            f"tolerance={tolerance:g} cannot be met in {str(b.dtype).removeprefix('torch.')}, which rounds by "
            f"{rounding:.1e}: give one of {ROUNDING * rounding:.0e} or more"
        )


def sizes(b: Float[Tensor, "k d"]) -> Float[Tensor, " k"]:
    """``|b|`` of each, in float64, and never 0, to be divided by."""
    return b.double().norm(dim=1).clamp(min=torch.finfo(torch.float64).tiny)


def relative_residuals(operator: Operator, x: Float[Tensor, "k d"], b: Float[Tensor, "k d"]) -> Float[Tensor, " k"]:
    """``|A^T x - b| / |b|`` of each, in float64: one product, with all of them."""
    return (operator.transpose_product(x) - b).double().norm(dim=1) / sizes(b)


def worst(residual: Float[Tensor, " k"], operator: Operator) -> tuple[float, str]:
    """The largest residual, or one that is NaN, and where it is."""
    k = int(residual.nan_to_num(nan=torch.inf).argmax())
    return float(residual[k]), operator.where(row(residual, k))


def numbers(count: int, of: str) -> str:
    """``"1 product"``, ``"3 products"``."""
    return f"{count} {of}{'' if count == 1 else 's'}"
