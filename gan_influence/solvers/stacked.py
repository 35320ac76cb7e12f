"""The equations of all right-hand sides as one of SciPy's, whose matrix has ``A^T`` in each block of its diagonal."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from gan_influence.solvers.gmres import Product
from gan_influence.solvers.residuals import sizes

__all__ = ["Stacked"]


class Stacked:
    """``A^T x_i = b_i / |b_i|`` for all i: a Krylov method finds one polynomial of ``A`` that serves all of them.

    It takes no more iterations than ``A`` has distinct eigenvalues, as for one right-hand side, and one product with
    all k vectors for each. As every ``b_i`` has norm 1, a residual of the whole is no less than any of its parts.

    Attributes:
        products: so far, each with all vectors.
        right_hand_side: ``(k d,)``, for SciPy.

    Args:
        b: the right-hand sides.
        transpose_product: ``A^T c`` of each of ``(k, d)``.
        product: ``A u``, for solvers that take both.
    """

    def __init__(self, b: Float[Tensor, "k d"], transpose_product: Product, product: Product | None = None):
        self._b, self._sizes, self._of = b, sizes(b).unsqueeze(1), (transpose_product, product)
        self.products = 0
        self.right_hand_side = (b.double() / self._sizes).flatten().cpu().numpy()

    def linear_operator(self) -> LinearOperator:
        """With the products ``A^T c`` and, as its adjoint's, ``A u``."""

        def called(product: Product | None, vector: np.ndarray) -> np.ndarray:
            assert product is not None
            self.products += 1
            rows = torch.from_numpy(np.ascontiguousarray(vector)).to(self._b).view_as(self._b)
            return product(rows).double().flatten().cpu().numpy()

        (forward, adjoint), n = (partial(called, product) for product in self._of), self._b.numel()
        return LinearOperator((n, n), forward, adjoint, dtype=np.float64)

    def solution(self, found: np.ndarray) -> Float[Tensor, "k d"]:
        """``x``, of the right-hand sides as they were given."""
        rows = torch.from_numpy(found).to(self._b.device).view(self._b.shape)
        return (rows * self._sizes).to(self._b)
