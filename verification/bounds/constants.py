"""The constants of the papers' bounds, rigorous over a region.

Let c be the centre of a box and r its radius. The suprema M_ijkl of the fourth derivatives of V bound

    |V_ijk(theta) - V_ijk(c)| <= sum_l M_ijkl r_l,  |J(theta) - J(c)| <= L_J |theta - c|,  |Z| <= |Z(c)| + eta L_J |r|.

Every constant is widened by `MARGIN` of its size, some thousand times what rounding can contribute.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from verification.bounds.norms import trilinear_norm, whiten
from verification.bounds.regions import MARGIN, Boxes
from verification.bounds.suprema import derivative_suprema, sigmoid_suprema
from verification.dense_lqgan import LQGAN, SIGNS, Array

__all__ = ["Constants", "Rows", "constants"]

Rows = NDArray[np.intp]

_UPPER = "sigma", "sigma_removed", "row_gradient", "row_curvature", "lipschitz", "jacobian_norm"
_FIELDS = *_UPPER, "monotonicity"


@dataclass(frozen=True)
class Constants:
    """The paper's constants on K boxes: upper bounds, except `monotonicity`, which is a lower bound.

    Shapes (K,) and, per row, (K, J); `worst` reduces them to () and (J,). Rows enter with 1/N, as printed.
    """

    eta: float
    sigma: Array
    """sigma, sup |Z(theta)|."""
    sigma_removed: Array
    """sup |Z_{-j}(theta)|, the same of the game without row j, (K, J)."""
    row_gradient: Array
    """L_f, sup (1/N) |grad f(D(psi, x_j))|, (K, J)."""
    row_curvature: Array
    """L_f', sup (1/N) |hess f(D(psi, x_j))|, (K, J)."""
    lipschitz: Array
    """L_J, the Lipschitz constant of J."""
    jacobian_norm: Array
    """lambda, sup |J(theta)|."""
    monotonicity: Array
    """mu, inf of the smallest eigenvalue of (J + J^T) / 2; Assumption 1 asks for mu > 0."""

    def worst(self) -> Constants:
        """Constants that hold on all the boxes."""
        reduced = {name: getattr(self, name).max(axis=0) for name in _UPPER}
        return replace(self, monotonicity=self.monotonicity.min(axis=0), **reduced)

    def first(self, count: int) -> Constants:
        """The constants of the first boxes."""
        return replace(self, **{name: getattr(self, name)[:count] for name in _FIELDS})

    def uniform(self) -> Constants:
        """The same of one box, with a `sigma` that bounds |Z_{-j}| of every row, too."""
        return replace(self, sigma=np.maximum(self.sigma, self.sigma_removed.max()))


def constants(
    game: LQGAN, boxes: Boxes, rows: Rows, whitening: Array | None = None, reach: float | None = None
) -> Constants:
    """Constants on every box, for the removal of each of `rows`, in the norm |W x|.

    `reach` is sup |W (theta - center)| on the region where that is less than on the box (a ball in its box).

    L_J is the least of |V'''(c)| + |spread| and |entrywise supremum| as trilinear forms; J and Z are bounded by
    their value at the centre plus the less of L_J * reach and the norm of the entrywise spread of J.
    """
    forward = np.eye(4) if whitening is None else whitening
    per_box = [_constants_on(game, center, radius, rows, forward, reach) for center, radius in boxes]
    return Constants(game.eta, *(np.array([box[name] for box in per_box]) for name in _FIELDS))


def _constants_on(
    game: LQGAN, center: Array, radius: Array, rows: Rows, forward: Array, reach: float | None
) -> dict[str, Array]:
    """The constants of `constants` on one box."""
    backward = np.linalg.inv(forward)
    size = np.abs(forward), np.abs(backward)
    suprema = derivative_suprema(game, center, radius)
    third = game.third(center)
    spread = suprema.fourth @ radius + MARGIN * suprema.third
    anywhere = np.minimum(np.abs(third) + spread, suprema.third)
    signed = whiten(SIGNS[:, None, None] * third, forward, backward)
    by_taylor = trilinear_norm(signed) + trilinear_norm(whiten(spread, *size))
    lipschitz = (1.0 + MARGIN) * min(by_taylor, trilinear_norm(whiten(anywhere, *size)))

    drift = size[0] @ (np.minimum(np.abs(third) + 0.5 * spread, suprema.third) @ radius) @ size[1]
    span = float(np.linalg.norm(size[0] @ radius)) if reach is None else reach
    jacobian = forward @ game.jacobian(center) @ backward
    norm = float(np.linalg.norm(jacobian, 2))
    wander = min(lipschitz * span, float(np.linalg.norm(drift, 2))) + MARGIN * (1.0 + norm)
    step = np.eye(4) - game.eta * jacobian

    k = game.features[rows]
    logits, halfwidth = k @ center[2:], np.abs(k) @ radius[2:]
    f = sigmoid_suprema(logits, halfwidth)
    push = (1.0 + MARGIN) * np.linalg.norm(k @ forward[:, 2:].T, axis=1) / game.rows.size
    outer = push * np.linalg.norm(k @ backward[2:], axis=1)
    jumps = forward @ game.row_jump_jacobians(center)[rows] @ backward
    removed = np.linalg.norm(step + jumps, 2, axis=(1, 2)) + game.eta * outer * f.third * halfwidth
    return {
        "sigma": np.asarray(np.linalg.norm(step, 2) + game.eta * wander),
        "sigma_removed": removed + game.eta * wander,
        "row_gradient": push * expit(halfwidth - logits),
        "row_curvature": outer * f.second,
        "lipschitz": np.asarray(lipschitz),
        "jacobian_norm": np.asarray(norm + wander),
        "monotonicity": np.asarray(np.linalg.eigvalsh((jacobian + jacobian.T) / 2.0)[0] - wander),
    }
