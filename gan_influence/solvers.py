"""Linear equations with J, Newton's steps towards an equilibrium, and the size of an inverse, by products alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, gmres, svds
from torch import Tensor

from gan_influence.adjoint import FieldGraph
from gan_influence.finite import ConvergenceError

__all__ = ["FieldAt", "ForwardGraph", "inverse_norm", "newton_steps", "solve"]

Product = Callable[[Float[Tensor, " d"]], Float[Tensor, " d"]]

_LARGEST_BASIS = 200  # GMRES keeps that many vectors of d numbers, then restarts
_DENSE = 256  # parameters up to which a matrix is made of its products
_LANCZOS = 3  # vectors between restarts


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

    def in_numpy(vector: np.ndarray) -> np.ndarray:
        return product(torch.from_numpy(np.ascontiguousarray(vector)).to(b).reshape(-1)).double().cpu().numpy()

    wanted = b.double().cpu().numpy()
    if rtol is None:
        rtol = 1e-12 if b.dtype == torch.float64 else 1e-6
    operator = LinearOperator((len(wanted), len(wanted)), matvec=in_numpy, dtype=np.float64)
    restart = min(products, len(wanted), _LARGEST_BASIS)
    solution, _ = gmres(operator, wanted, rtol=rtol, atol=0.0, restart=restart, maxiter=max(products // restart, 1))
    residual = float(np.linalg.norm(in_numpy(solution) - wanted) / max(np.linalg.norm(wanted), np.finfo(float).tiny))
    if not residual <= 1e3 * rtol:
        raise ConvergenceError(
            f"GMRES left a relative residual of {residual:.1e} after {products} products {told}: J is close to singular"
        )
    return torch.from_numpy(solution).to(b)


class ForwardGraph:
    """Products ``J u``, off one graph: ``J^T c`` is linear in c, and ``<J^T c, u>`` has the slope ``J u`` in it.

    So modules need a derivative more, but no rule for forward differentiation, and no ``J`` is taken for symmetric.
    """

    def __init__(self, field: FieldGraph):
        self._game = field.game
        self._cotangents = tuple(torch.zeros_like(part, requires_grad=True) for part in field.parts)
        moving = [k for k, part in enumerate(field.parts) if part.requires_grad]
        self._pulled: tuple[Tensor, ...] = ()
        if moving:
            parts, cotangents = ([of[k] for k in moving] for of in (field.parts, self._cotangents))
            leaves = field.leaves
            self._pulled = torch.autograd.grad(
                parts, leaves, cotangents, create_graph=True, materialize_grads=True, allow_unused=True
            )

    def product(self, direction: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
        """``J(theta) u``. The graph stays, ready for the next product."""
        along = zip(self._pulled, self._game.split(direction), strict=False)
        pairs = [(pulled, u) for pulled, u in along if pulled.requires_grad]
        if not pairs:
            return torch.zeros_like(direction)
        pulled, u = zip(*pairs, strict=True)
        found = torch.autograd.grad(pulled, self._cotangents, u, retain_graph=True, materialize_grads=True)
        return torch.cat(found, dim=-1)


class FieldAt(Protocol):
    """The field that training follows, at one ``theta``."""

    def value(self) -> Float[Tensor, " d"]:
        """``v(theta)``."""
        ...

    def product(self, direction: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
        """``J(theta) u``."""
        ...


def newton_steps(
    field_at: Callable[[Tensor], FieldAt], theta: Float[Tensor, " d"], steps: int, products: int, stop: int
) -> Float[Tensor, " d"]:
    """``theta <- theta - J(theta)^-1 v(theta)``, ``steps`` times, or until a change is lost in the rounding of ``v``.

    Raises:
        ConvergenceError: a step does not make ``|v|`` smaller, or GMRES fails within so many ``products``.
    """
    field = field_at(theta)
    v = field.value()
    for k in range(1, steps + 1):
        told = f"in Newton step {k} at step {stop}: allow more terms, give both players l2, or leave newton out"
        change = solve(field.product, v, products, told)
        field = field_at(theta - change)
        before, v = v, field.value()
        if not v.norm() < before.norm():
            if change.norm() <= torch.finfo(theta.dtype).eps ** 0.5 * (1 + theta.norm()):
                return theta  # as near as rounding lets it come
            raise ConvergenceError(
                f"the run is too far from an equilibrium at step {stop}: Newton step {k} takes |v| from "
                f"{before.norm():.2g} to {v.norm():.2g}. Train longer, leave newton out, or score with gi.itd, which "
                "needs no equilibrium"
            )
        theta = theta - change
    return theta


def inverse_norm(
    product: Product, transpose_product: Product, like: Float[Tensor, " d"], products: int, name: str
) -> float:
    """``|A^-1|``: one over the least singular value of ``A``.

    For 256 parameters or fewer exact, up to rounding, from d products ``A^T c``. Beyond, an estimate from below: a
    Lanczos iteration (ARPACK) with ``A^-1``, whose products, and those of its transpose, are solutions by GMRES.

    Raises:
        ConvergenceError: ``A``, called ``name``, is singular up to rounding, or GMRES fails within so many products.
    """
    d, fix = len(like), "add damping, or leave tolerance out and give terms"
    if d <= _DENSE:
        rows = torch.stack([transpose_product(unit) for unit in torch.eye(d).to(like)])
        singular = torch.linalg.svdvals(rows.double())
        if not singular[-1] > d * torch.finfo(like.dtype).eps * singular[0]:
            raise ConvergenceError(f"tolerance= needs the size of the inverse of {name}, which is singular: {fix}")
        return 1 / float(singular[-1])

    def solved(product: Product, b: np.ndarray) -> np.ndarray:
        right = torch.from_numpy(b.ravel()).to(like)
        return solve(product, right, products, f"for the inverse of {name}: {fix}", rtol=1e-4).double().cpu().numpy()

    inverse = LinearOperator(
        (d, d), lambda b: solved(product, b), lambda b: solved(transpose_product, b), dtype=np.float64
    )
    start = np.random.default_rng(0).standard_normal(d)
    (largest,) = svds(inverse, k=1, ncv=_LANCZOS, tol=0.1, v0=start, return_singular_vectors=False)
    return float(largest)
