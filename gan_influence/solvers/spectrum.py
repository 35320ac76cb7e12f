"""How large a step a fixed-point iteration may take: the ends of the spectrum."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from gan_influence.solvers.inverse_norm import DENSE
from gan_influence.solvers.protocol import Operator

__all__ = ["Step", "asymmetry", "ends", "growth", "steps_of"]

# (m, w, eta) -> (I - eta A_m)^T w
Step = Callable[[int, Float[Tensor, "k d"], Float[Tensor, " d"]], Float[Tensor, "k d"]]

_ITERATIONS = 40  # of a power iteration, whose largest growth is then right to a few per cent
_AT_FIRST = 10  # of these the vector still turns


def steps_of(operator: Operator, minibatches: bool) -> Step:
    """Steps with one fresh batch after another, or each with the mean over an epoch of them."""
    if minibatches:
        return operator.transpose_step
    return lambda m, w, eta: w - operator.transpose_product(eta * w)


def growth(step: Step, like: Float[Tensor, " d"]) -> tuple[float, int]:
    """The largest factor by which products ``A_m^T v`` make a vector longer; and how many products it took.

    A power iteration: with the same ``A`` at all steps it is the size of the largest eigenvalue, from below; with fresh
    batches it is what the largest of them do to about the same vector.
    """
    v, one, factors = _random(like), torch.ones_like(like), []
    for m in range(_ITERATIONS):
        product = v - step(m, v, one)
        factors.append(float(product.double().norm()))
        if not 0 < factors[-1] < torch.inf:
            break
        v = product / product.norm()
    return max(factors[_AT_FIRST:] or factors), len(factors)


def asymmetry(operator: Operator, like: Float[Tensor, " d"]) -> tuple[float, float] | None:
    """``<u, A v>`` and ``<v, A u>`` of two random directions; ``None`` where they are the same, up to rounding."""
    u, v = torch.randn(2, len(like), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(like)
    of_u, of_v = operator.transpose_product(torch.stack([u, v])).double()
    one, other = float(u.double() @ of_v), float(v.double() @ of_u)
    largest = float(u.double().norm() * of_v.norm() + v.double().norm() * of_u.norm())
    return (one, other) if abs(one - other) > torch.finfo(like.dtype).eps ** 0.5 * largest else None


def ends(operator: Operator, like: Float[Tensor, " d"]) -> tuple[float, float]:
    """The least and the largest eigenvalue of a symmetric ``A``.

    For 256 parameters or fewer exact, up to rounding, from d products. Beyond, by Lanczos iterations (ARPACK), to a
    hundredth.
    """
    d = len(like)
    if d <= DENSE:
        found = torch.linalg.eigvalsh(operator.transpose_product(torch.eye(d).to(like)).double())
        return float(found[0]), float(found[-1])

    def in_numpy(c: np.ndarray) -> np.ndarray:
        return operator.transpose_product(torch.from_numpy(c.reshape(1, d)).to(like))[0].double().cpu().numpy()

    of = LinearOperator((d, d), in_numpy, dtype=np.float64)
    start = _random(like)[0].double().cpu().numpy()
    least, largest = (
        float(eigsh(of, 1, which=which, v0=start, tol=0.01, return_eigenvectors=False)[0]) for which in ("SA", "LA")
    )
    return least, largest


def _random(like: Float[Tensor, " d"]) -> Float[Tensor, "1 d"]:
    v = torch.randn(1, len(like), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (v / v.norm()).to(like)
