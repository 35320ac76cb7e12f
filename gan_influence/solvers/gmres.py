"""GMRES: the solution, from products with the mean field's derivative alone (Saad and Schultz, 1986)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, gmres
from torch import Tensor

from gan_influence.checks import check, is_real, is_whole
from gan_influence.finite import ConvergenceError
from gan_influence.solvers.protocol import Operator, Solution, row
from gan_influence.solvers.residuals import check_reachable

__all__ = ["GMRES", "Product", "check_tolerance", "solve"]

Product = Callable[[Float[Tensor, " d"]], Float[Tensor, " d"]]

_LARGEST_BASIS = 200  # GMRES keeps that many vectors of d numbers, then restarts
_ROUNDING = 1e3  # how far above the accuracy that it strives for by default its residual may be


@dataclass(frozen=True)
class GMRES:
    """``x`` with ``A^T x = b``, by ``scipy.sparse.linalg.gmres``, one right-hand side after another.

    ``A`` is the mean over batches that hold all rows, so that each product takes their whole epoch.

    Args:
        products: the most that are made for a right-hand side, but for one.
        tolerance: of ``|A^T x - b| / |b|``; by default as small as rounding lets it be.

    Raises:
        ValueError: ``products`` is no whole number >= 1, or ``tolerance`` is not above 0.
    """

    products: int = 1000
    tolerance: float | None = None

    def __post_init__(self) -> None:
        wanted = "a whole number >= 1, the most that are made for a right-hand side"
        check(is_whole(self.products) and self.products >= 1, "products", wanted, self.products)
        check_tolerance(self.tolerance)

    def solve(self, operator: Operator, b: Float[Tensor, "k d"], *, progress: bool = False) -> Solution:
        """See :class:`gan_influence.solvers.Solver`."""
        if self.tolerance is not None:
            check_reachable(b, self.tolerance)
        accuracy = _accuracy(b) if self.tolerance is None else self.tolerance / 2  # it knows its residual roughly
        limit = _ROUNDING * accuracy if self.tolerance is None else self.tolerance
        found = [_iterated(operator.transpose_product, one, self.products, accuracy) for one in b]
        x = torch.stack([one.x for one in found])
        residual = b.new_tensor([one.residual for one in found], dtype=torch.float64)
        converged, told = residual <= limit, ""
        if not converged.all():
            k = int((~converged).nonzero()[0])
            fix = "allow more products, with solver='gmres' more terms, or add damping"
            told = _told(found[k].residual, self.products, f"at {operator.where(row(b, k))}: {fix}")
        return Solution(x, sum(one.products for one in found), residual, converged, told)


def solve(
    product: Product, b: Float[Tensor, " d"], products: int, told: str, rtol: float | None = None
) -> Float[Tensor, " d"]:
    """``x`` with ``A x = b``, by GMRES with at most that many products ``A c``.

    Args:
        product: ``A c``.
        b: the right-hand side.
        products: the most that are made, but for one.
        told: where, and what to do, should it fail.
        rtol: of the residual; by default 1e-12, in single precision 1e-6.

    Raises:
        ConvergenceError: the residual is above a thousand times that.
    """
    rtol = _accuracy(b) if rtol is None else rtol
    found = _iterated(product, b, products, rtol)
    if not found.residual <= _ROUNDING * rtol:
        raise ConvergenceError(_told(found.residual, products, told))
    return found.x


@dataclass(frozen=True)
class _Found:
    x: Float[Tensor, " d"]
    residual: float
    products: int


def _iterated(product: Product, b: Float[Tensor, " d"], products: int, rtol: float) -> _Found:
    made = 0

    def in_numpy(vector: np.ndarray) -> np.ndarray:
        nonlocal made
        made += 1
        return product(torch.from_numpy(np.ascontiguousarray(vector)).to(b).reshape(-1)).double().cpu().numpy()

    wanted = b.double().cpu().numpy()
    operator = LinearOperator((len(wanted), len(wanted)), matvec=in_numpy, dtype=np.float64)
    restart = min(products, len(wanted), _LARGEST_BASIS)
    solution, _ = gmres(operator, wanted, rtol=rtol, atol=0.0, restart=restart, maxiter=max(products // restart, 1))
    residual = float(np.linalg.norm(in_numpy(solution) - wanted) / max(np.linalg.norm(wanted), np.finfo(float).tiny))
    return _Found(torch.from_numpy(solution).to(b), residual, made)


def check_tolerance(tolerance: float | None) -> None:
    """Is this something to be near to, or none?"""
    holds = tolerance is None or (is_real(tolerance) and tolerance > 0)
    check(holds, "tolerance", "a finite number above 0, or None", tolerance)


def _accuracy(b: Tensor) -> float:
    return 1e-12 if b.dtype == torch.float64 else 1e-6


def _told(residual: float, products: int, told: str) -> str:
    return f"GMRES left a relative residual of {residual:.1e} after {products} products {told}: J is close to singular"
