"""The size of an inverse, by products alone."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, svds
from torch import Tensor

from gan_influence.finite import ConvergenceError
from gan_influence.solvers.gmres import Product, solve

__all__ = ["DENSE", "inverse_norm"]

DENSE = 256  # parameters up to which a matrix is made of its products
_LANCZOS = 3  # vectors between restarts


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
    if d <= DENSE:
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
