"""Rigorous constants of LQGAN over a region, and every error bound of TNNLS Section III-D and Appendix A.

**Regions.** A bound needs constants that hold on the segments between the factual and the counterfactual
trajectory, so a region is a stack of closed boxes {|theta - center| <= radius, elementwise}: one box for
everything, or one a step (`boxes_between`), which is much smaller and just as valid: each segment lies in its own,
convex, box.

**Constants.** None is sampled. Let c be the centre of a box and r its radius. With D's logit polynomial a(theta) of
degree 3, the Taylor polynomial of a at c is exact, which bounds |a|, |grad a|, |hess a| on the box for every row
and latent; the derivatives of f = log sigmoid are bounded on the resulting interval of logits, |f'| <= 1, |f''| <=
1/4, |f'''| <= 1/(6 sqrt 3), |f''''| <= 1/8 at worst (in q = s (1 - s): q, q sqrt(1 - 4 q), |q - 6 q^2|). Averages
of products of these bound the fourth derivatives of V entry by entry, M_ijkl, and

    |V_ijk(theta) - V_ijk(c)| <= sum_l M_ijkl r_l,  |J(theta) - J(c)| <= L_J |theta - c|,  |Z| <= |Z(c)| + eta L_J |r|.

Every constant is widened by `MARGIN` of its size, some thousand times what rounding can contribute.

**Norms.** A `whitening` W turns all of it into the norm |x|_P = |W x|, P = W^T W: vectors become W x, matrices W A
W^{-1}. The proofs use nothing of the Euclidean norm but the triangle inequality and submultiplicativity, so each
bound holds in each norm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_discrete_lyapunov
from scipy.optimize import minimize
from scipy.special import expit

from verification.dense_lqgan import LQGAN, SIGNS, Array, fake_logits

Rows = NDArray[np.intp]

MARGIN = 1e-9


# Regions -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Boxes:
    """K closed boxes {theta : |theta - center| <= radius}: center and radius are (K, 4)."""

    center: Array
    radius: Array

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        return iter(zip(self.center, self.radius, strict=True))

    def contains(self, points: Array) -> bool:
        """Whether some box holds every one of the points (..., 4)."""
        distance = np.abs(points[..., None, :] - self.center)
        return bool(np.all(distance <= self.radius, axis=-1).any(axis=-1).all())


def boxes_between(trajectory: Array, counterfactuals: Array, chunk: int | None = None) -> Boxes:
    """Boxes holding both trajectories and the segments between them.

    `trajectory` is (T + 1, 4), `counterfactuals` (T + 1, K, 4). Each run of `chunk` consecutive steps gets the
    smallest box around its points; None makes a single box. chunk = 1 makes box t hold the segments of step t.
    """
    points = np.concatenate([trajectory[:, None], counterfactuals], axis=1)
    starts = np.arange(0, len(points), chunk or len(points))
    low = np.minimum.reduceat(points.min(axis=1), starts)
    high = np.maximum.reduceat(points.max(axis=1), starts)
    return Boxes((low + high) / 2.0, (high - low) / 2.0 + MARGIN * np.maximum(np.abs(low), np.abs(high)))


def ball_box(center: Array, radius: float, whitening: Array | None = None) -> Boxes:
    """The box around the ball |W (theta - center)| <= radius; half-widths radius * (row norms of W^{-1})."""
    inverse = np.eye(4) if whitening is None else np.linalg.inv(whitening)
    return Boxes(center[None], radius * (1.0 + MARGIN) * np.linalg.norm(inverse, axis=1)[None])


# Derivatives of f over intervals of logits --------------------------------------------------------


@dataclass(frozen=True)
class SigmoidSuprema:
    """Suprema of |f''|, |f'''|, |f''''| for f = log sigmoid over intervals of logits; the same for g(a) = f(-a)."""

    second: Array
    third: Array
    fourth: Array


def sigmoid_suprema(logits: Array, halfwidth: Array) -> SigmoidSuprema:
    """Suprema over [logits - halfwidth, logits + halfwidth], through q = s (1 - s) in [q_low, q_high]."""
    nearest = np.maximum(np.abs(logits) - halfwidth, 0.0)
    furthest = np.abs(logits) + halfwidth
    high, low = expit(nearest) * expit(-nearest), expit(furthest) * expit(-furthest)
    third = [q * np.sqrt(np.maximum(1.0 - 4.0 * q, 0.0)) for q in (low, high)]
    fourth = [np.abs(q - 6.0 * q * q) for q in (low, high)]
    has_third_peak = (low <= 1.0 / 6.0) & (high >= 1.0 / 6.0)
    has_fourth_peak = (low <= 1.0 / 12.0) & (high >= 1.0 / 12.0)
    return SigmoidSuprema(
        high,
        np.where(has_third_peak, 1.0 / (6.0 * np.sqrt(3.0)), np.maximum(*third)),
        np.maximum(np.where(has_fourth_peak, 1.0 / 24.0, 0.0), np.maximum(*fourth)),
    )


def _over_splits(tensor: Array, head: int) -> Array:
    """Sum of `tensor` over the ways to hand `head` of its indices to its leading axes, the others in order."""
    order = tensor.ndim
    total = np.zeros_like(tensor)
    for chosen in combinations(range(order), head):
        rest = tuple(k for k in range(order) if k not in chosen)
        total += np.transpose(tensor, np.argsort(chosen + rest))
    return total


def _moment(weights: Array, left: Array, right: Array) -> Array:
    """Mean over n of weights_n left_n (x) right_n, one matrix product: (N,), (N, ...), (N, ...) -> (..., ...)."""
    flat = (weights[:, None] * left.reshape(len(left), -1)).T @ right.reshape(len(right), -1)
    return flat.reshape(left.shape[1:] + right.shape[1:]) / len(weights)


def _outer(left: Array, right: Array) -> Array:
    """left_n (x) right_n for vectors: (N, a), (N, b) -> (N, a, b)."""
    return left[:, :, None] * right[:, None, :]


@dataclass(frozen=True)
class DerivativeSuprema:
    """Entrywise suprema on a box of |V_ijk| (4, 4, 4) and |V_ijkl| (4, 4, 4, 4)."""

    third: Array
    fourth: Array


def derivative_suprema(game: LQGAN, center: Array, radius: Array) -> DerivativeSuprema:
    """Bound the third and fourth derivatives of V on {|theta - center| <= radius}, entry by entry.

    The chain rule for g(a(theta)), with every factor replaced by its supremum on the box (a has degree 3):

        V_ijk  = g''' a_i a_j a_k + g'' (a_ij a_k + 2 more) + g' a_ijk
        V_ijkl = g'''' a_i a_j a_k a_l + g''' (a_ij a_k a_l + 5 more) + g'' (a_ij a_kl + 2 more + a_ijk a_l + 3 more).
    """
    fake = fake_logits(center, game.latents)
    gradient, hessian, third = (np.abs(d) for d in (fake.gradient, fake.hessian, fake.third))
    halfwidth = gradient @ radius + 0.5 * hessian @ radius @ radius + third @ radius @ radius @ radius / 6.0
    gradient = gradient + hessian @ radius + 0.5 * third @ radius @ radius
    hessian = hessian + third @ radius
    g = sigmoid_suprema(fake.value, halfwidth)
    slope = expit(fake.value + halfwidth)

    pairs = _outer(gradient, gradient)
    order3 = _moment(g.third, pairs, gradient) + _over_splits(_moment(g.second, hessian, gradient), 2)
    order3 += _moment(slope, third, np.ones(len(slope)))
    order4 = _moment(g.fourth, pairs, pairs) + _over_splits(_moment(g.third, hessian, pairs), 2)
    order4 += 0.5 * _over_splits(_moment(g.second, hessian, hessian), 2)
    order4 += _over_splits(_moment(g.second, third, gradient), 3)

    k = np.abs(game.features)
    f = sigmoid_suprema(game.features @ center[2:], k @ radius[2:])
    order3[2:, 2:, 2:] += _moment(f.third, _outer(k, k), k)
    order4[2:, 2:, 2:, 2:] += _moment(f.fourth, _outer(k, k), _outer(k, k))
    return DerivativeSuprema(order3 * (1.0 + MARGIN), order4 * (1.0 + MARGIN))


def trilinear_norm(tensor: Array) -> float:
    """An upper bound of sup |T(a, b, c)| over unit a, b, c: the least spectral norm of T's three unfoldings."""
    unfoldings = (np.moveaxis(tensor, axis, 0).reshape(4, 16) for axis in range(3))
    return min(float(np.linalg.norm(unfolding, 2)) for unfolding in unfoldings)


# Constants -----------------------------------------------------------------------------------------


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
        upper = ("sigma", "sigma_removed", "row_gradient", "row_curvature", "lipschitz", "jacobian_norm")
        reduced = {name: getattr(self, name).max(axis=0) for name in upper}
        return replace(self, monotonicity=self.monotonicity.min(axis=0), **reduced)

    def uniform(self) -> Constants:
        """The same of one box, with a `sigma` that bounds |Z_{-j}| of every row, too."""
        return replace(self, sigma=np.maximum(self.sigma, self.sigma_removed.max()))


_FIELDS = (
    "sigma",
    "sigma_removed",
    "row_gradient",
    "row_curvature",
    "lipschitz",
    "jacobian_norm",
    "monotonicity",
)


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


def whiten(tensor: Array, forward: Array, backward: Array) -> Array:
    """T'(a, b) = W T(V a, V b) for T (4, 4, 4) with its first index out; W = `forward`, V = `backward`."""
    return np.einsum("ia,abc,bj,ck->ijk", forward, tensor, backward, backward, optimize=True)


def lyapunov_norm(step_matrix: Array, rate: float) -> Array:
    """W with |W Z W^{-1}| <= rate, for a rate above the spectral radius of Z: W^T W = P, (4, 4).

    P solves the discrete Lyapunov equation Z^T P Z / rate^2 - P + I = 0: |Z x|_P^2 = rate^2 (|x|_P^2 - |x|^2).

    Raises:
        ValueError: if `rate` does not exceed the spectral radius; names both.
    """
    radius = float(np.abs(np.linalg.eigvals(step_matrix)).max())
    if rate <= radius:
        raise ValueError(f"rate {rate} must exceed the spectral radius of Z, {radius}")
    return np.linalg.cholesky(solve_discrete_lyapunov(step_matrix.T / rate, np.eye(4))).T


# The bounds of the paper ---------------------------------------------------------------------------


def lemma_1(monotonicity: float, jacobian_norm: float, eta: float) -> float:
    """sigma_B <= sqrt(1 - 2 eta mu + eta^2 lambda^2), below 1 exactly when eta < 2 mu / lambda^2."""
    return float(np.sqrt(max(1.0 - 2.0 * eta * monotonicity + eta**2 * jacobian_norm**2, 0.0)))


def lemma_3(c: Constants, steps: int) -> Array:
    """|theta_{-j}^(t) - theta^(t)| <= eta L_f (1 - sigma^t) / (1 - sigma), t = 0 ... T: (T + 1, J).

    Summed as sum_{s < t} sigma^s, which is the same and holds at sigma = 1 too.
    """
    with np.errstate(over="ignore"):  # an infinite bound is one
        sums = np.concatenate([[0.0], np.cumsum(float(c.sigma) ** np.arange(steps, dtype=np.float64))])
    return c.eta * sums[:, None] * c.row_gradient


def lemma_4(a: float, terms: int) -> float:
    """sum_{m < M} m a^m = a (1 - a^{M-1}) / (1 - a)^2 - (M - 1) a^M / (1 - a), eq. (24), for a != 1."""
    return a * (1.0 - a ** (terms - 1)) / (1.0 - a) ** 2 - (terms - 1) * a**terms / (1.0 - a)


def lemma_5(sigma: float, radius: float, steps: int) -> Array:
    """|theta^(t) - theta*| <= rho sigma_B^t, t = 0 ... T: (T + 1,).  Needs eta < 2 mu / lambda^2 as well."""
    return radius * sigma ** np.arange(steps + 1)


def lemma_6(c: Constants) -> Array:
    """|theta*_{-j} - theta*| <= eta L_f / (1 - sigma_B): (J,).  Needs theta*_{-j} in the ball as well."""
    return c.eta * c.row_gradient / (1.0 - _contraction(c))


def theorem_1(c: Constants, steps: int) -> Array:
    """Theorem 1 as printed, with constants of a region that holds both runs: (J,).

        eta^2 L_f L_f' / (sigma - 1)^2 (T sigma^{T-1} (sigma - 1) - sigma^T + 1)
        + eta^3 L_f^2 L_J / (sigma - 1)^3 (sigma^{2T-1} - (2T - 1)(sigma - 1) sigma^{T-1} - 1)

    Evaluated with 100 digits: it is 0 / 0 at sigma = 1, where `direct_recursion` goes on.

    Raises:
        ValueError: at sigma = 1, which the theorem excludes.
    """
    if float(c.sigma) == 1.0:
        raise ValueError("sigma is 1, which Theorem 1 excludes; use direct_recursion")
    with localcontext() as context:
        context.prec = 100
        sigma = Decimal(float(c.sigma))
        excess, power = sigma - 1, sigma ** (steps - 1)
        first = (steps * power * excess - power * sigma + 1) / excess**2
        second = (power**2 * sigma - (2 * steps - 1) * excess * power - 1) / excess**3
    return _two_terms(c, float(first), float(second))


def corollary_1(c: Constants, steps: int) -> Array:
    """eta^2 L_f L_f' T s^T / (s - 1)^2 + eta^3 L_f^2 L_J s^{2T-1} / (s - 1)^3, s = sigma > 1: (J,)."""
    s = float(c.sigma)
    if s <= 1.0:
        raise ValueError(f"Corollary 1 needs sigma > 1, got {s}; use corollary_2")
    with np.errstate(over="ignore"):
        power = np.float64(s) ** steps
        return _two_terms(c, steps * power / (s - 1.0) ** 2, power * power / s / (s - 1.0) ** 3)


def corollary_2(c: Constants, steps: int) -> Array:
    """eta^2 L_f L_f' (1 - s^T) / (1 - s)^2 + eta^3 L_f^2 L_J (1 - s^{2T-1}) / (1 - s)^3, s = sigma_B < 1: (J,).

    For T > 0: at T = 0 its second term is negative. In the norm of `lyapunov_norm` it needs no Assumption 1. The
    ball must hold the counterfactual run too, which the printed assumptions do not ask.
    """
    s = _contraction(c)
    return _two_terms(c, (1.0 - s**steps) / (1.0 - s) ** 2, (1.0 - s ** (2 * steps - 1)) / (1.0 - s) ** 3)


def theorem_2(c: Constants, radius: float | Array, steps: int, terms: int) -> Array:
    """Theorem 2 as printed: (J,).  With s = sigma_B, rho = `radius`, M = `terms`:

    (eta L_f' / (1 - s) + eta^2 L_f L_J / (1 - s)^2) rho s^T (1 - s^{M-1}) + eta L_f s^M / (1 - s)
    + 2 rho s^T + eta^3 L_f^2 L_J / (1 - s)^3 + eta^2 L_f L_f' / (1 - s)^2

    True where s bounds |Z| and |Z_{-j}| on the balls of radius rho around theta* and theta*_{-j}, and both hold
    theta^(0): proved in ``docs/theorem-2.md``, the paper's own proof being one (33) short of it.
    """
    s = _contraction(c)
    drift = estimator_slope(c) * radius * s**steps * (1.0 - s ** (terms - 1))
    return drift + tail(c, terms) + 2.0 * radius * s**steps + nonlinearity(c)


def estimator_slope(c: Constants) -> Array:
    """eta L_f' / (1 - s) + eta^2 L_f L_J / (1 - s)^2: how fast AID's limit moves with theta, (30) and (32)."""
    gap = 1.0 - float(c.sigma)
    return c.eta * c.row_curvature / gap + c.eta**2 * c.row_gradient * c.lipschitz / gap**2


def tail(c: Constants, terms: int) -> Array:
    """eta L_f s^M / (1 - s): the Neumann series' tail (34)."""
    return c.eta * c.row_gradient * float(c.sigma) ** terms / (1.0 - float(c.sigma))


def nonlinearity(c: Constants) -> Array:
    """eta^2 L_f L_f' / (1 - s)^2 + eta^3 L_f^2 L_J / (1 - s)^3, AID's limit against theta*_{-j} - theta* (38)."""
    gap = 1.0 - float(c.sigma)
    return _two_terms(c, gap**-2, gap**-3)


def _two_terms(c: Constants, first: float, second: float) -> Array:
    """eta^2 L_f L_f' first + eta^3 L_f^2 L_J second: (J,)."""
    curvature = c.eta**2 * c.row_gradient * c.row_curvature
    with np.errstate(over="ignore"):  # an infinite bound is one
        return curvature * first + c.eta**3 * c.row_gradient**2 * c.lipschitz * second


def _contraction(c: Constants) -> float:
    """sigma_B, or an error where Z is no contraction."""
    sigma = float(c.sigma)
    if not sigma < 1.0:
        raise ValueError(f"sigma_B = {sigma} is not below 1 on this region; shrink it or change the norm")
    return sigma


# Beyond the paper ----------------------------------------------------------------------------------


def direct_recursion(c: Constants, steps: int, step_norms: Array | None = None) -> Array:
    """(a) |ITD - true influence| from the error's own recursion, t = 0 ... T: (T + 1, J).

    Taylor at theta^(t) with the integral remainder: e_{t+1} = Z(theta^(t)) e_t + R_t and
    |R_t| <= eta L_f' d_t + (eta L_J / 2) d_t^2 with d_t >= |Delta theta_{-j}^(t)|, hence |e_t| <= r_t for

        d_{t+1} = sigma_t d_t + eta L_f,    r_{t+1} = |Z(theta^(t))| r_t + eta L_f' d_t + (eta L_J / 2) d_t^2.

    With one set of constants (`Constants.worst`) this is Theorem 1 with L_J / 2 for L_J, at every sigma, 1
    included. With constants a step (T boxes of `boxes_between(..., chunk=1)`, the last point left out) and
    `step_norms` = |Z(theta^(t))|, (T,), it is far less.
    """
    rows = np.shape(c.row_gradient)[-1]
    gain = np.broadcast_to(np.reshape(c.sigma, (-1, 1)), (steps, rows))
    local = gain if step_norms is None else np.broadcast_to(step_norms[:, None], (steps, rows))
    lipschitz = np.broadcast_to(np.reshape(c.lipschitz, (-1, 1)), (steps, rows))
    gradient, curvature = (np.broadcast_to(v, (steps, rows)) for v in (c.row_gradient, c.row_curvature))
    error, distance = np.zeros((steps + 1, rows)), np.zeros(rows)
    for t in range(steps):
        remainder = curvature[t] * distance + 0.5 * lipschitz[t] * distance**2
        error[t + 1] = local[t] * error[t] + c.eta * remainder
        distance = gain[t] * distance + c.eta * gradient[t]
    return error


def balanced_norm(game: LQGAN, equilibrium: Array, influences: Array) -> Array:
    """A norm made of Z's modes in which Z(theta*) contracts by its spectral radius and L_J is small, (4, 4).

    The rows of W are Z's real left eigenvectors (real and imaginary part of a complex pair, equally scaled), so that
    |W Z W^{-1}| is the spectral radius: P = W^T W solves Z^T P Z - rate^2 P = -Q, Q >= 0 at rate = spectral radius.
    The modes' scales, free in that, minimise L_J(theta*) times the median |W a_j| over `influences` a_j, (J, 4).

    Raises:
        ValueError: if Z(theta*) is no contraction in any norm (spectral radius >= 1).
    """
    values, right = np.linalg.eig(game.step_matrix(equilibrium))
    if np.abs(values).max() >= 1.0:
        raise ValueError(f"Z's spectral radius is {np.abs(values).max()}, so no norm makes Z a contraction")
    left = np.linalg.inv(right)
    modes = [_real_rows(left[k], values[k]) for k in range(4) if values[k].imag >= 0.0]
    modes = [mode / np.sqrt(np.mean((influences @ mode.T) ** 2)) for mode in modes]
    third = SIGNS[:, None, None] * game.third(equilibrium)

    def scaled(logarithms: Array) -> Array:
        scales = np.exp(np.concatenate([[0.0], logarithms]))
        return np.concatenate([scale * mode for scale, mode in zip(scales, modes, strict=True)])

    def curvature(logarithms: Array) -> float:
        norm = scaled(logarithms)
        typical = np.median(np.linalg.norm(influences @ norm.T, axis=1))
        return float(np.log(trilinear_norm(whiten(third, norm, np.linalg.inv(norm))) * typical))

    best = minimize(curvature, np.zeros(len(modes) - 1), method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-4})
    return scaled(best.x)


def _real_rows(left: NDArray[np.complex128], value: complex) -> Array:
    """A left eigenvector as real coordinates: one row, or real and imaginary part."""
    return np.stack([left.real, left.imag]) if abs(value.imag) > 0.0 else left.real[None]


@dataclass(frozen=True)
class EquilibriumShift:
    """theta*_{-j} - theta* = limit + error, in a norm W: limit (J, 4), |W (shift)| and |W error| at most (J,)."""

    limit: Array
    distance: Array
    error: Array


def equilibrium_shift(game: LQGAN, equilibrium: Array, rows: Rows, whitening: Array, radius: float) -> EquilibriumShift:
    """(b) Lemma 6 and (38) with the inverse kept whole, in the norm |W x|, on the ball |W (theta - theta*)| <= radius.

    With a_j = (I - Z(theta*))^{-1} Delta v_{-j}(theta*), AID's limit (12), the shift x is a fixed point of

        x = a_j - J(theta*)^{-1} (v(theta* + x) - J(theta*) x + (1/N) (grad f_j(theta* + x) - grad f_j(theta*)))
        |x - a_j| <= kappa_j |x| + (K / 2) |x|^2,   kappa_j = sup |J^{-1} hess f_j| / N,  K = sup |J^{-1} V'''|.

    The least d with |a_j| + kappa_j d + (K / 2) d^2 <= d makes the right side map the ball of radius d into itself, so
    by Brouwer theta*_{-j} exists there. Infinite for a row where no such d <= `radius` exists.
    """
    half = ball_box(equilibrium, radius, whitening).radius[0]
    lipschitz, kappa = _solved_curvatures(game, equilibrium, rows, whitening, half)
    limit = np.linalg.solve(game.eta * game.jacobian(equilibrium), game.row_jumps(equilibrium)[rows].T).T
    distance = _least_ball(np.linalg.norm(limit @ whitening.T, axis=1), kappa, lipschitz, radius)
    return EquilibriumShift(limit, distance, kappa * distance + 0.5 * lipschitz * distance**2)


def _solved_curvatures(game: LQGAN, center: Array, rows: Rows, whitening: Array, half: Array) -> tuple[float, Array]:
    """K = sup |J^{-1} V'''| and kappa_j = sup |J^{-1} hess f_j| / N, (J,), J = J(center), on {|theta - center| <= "
    "half},
    in the norm |W x|."""
    backward, solve = np.linalg.inv(whitening), whitening @ np.linalg.inv(game.jacobian(center))
    suprema = derivative_suprema(game, center, half)
    spread = suprema.fourth @ half + MARGIN * suprema.third
    exact = trilinear_norm(whiten(SIGNS[:, None, None] * game.third(center), solve, backward))
    lipschitz = exact + trilinear_norm(whiten(spread, np.abs(solve), np.abs(backward)))
    k = game.features[rows]
    curvature = sigmoid_suprema(k @ center[2:], np.abs(k) @ half[2:]).second / game.rows.size
    slope = np.linalg.norm(k @ solve[:, 2:].T, axis=1) * np.linalg.norm(k @ backward[2:], axis=1)
    return lipschitz, (1.0 + MARGIN) * curvature * slope


def _least_ball(size: Array, kappa: Array | float, lipschitz: float, radius: float) -> Array:
    """The least d with size + kappa d + (K / 2) d^2 <= d; infinite where there is none of at most `radius`."""
    size = (1.0 + MARGIN) * size
    gap = 1.0 - np.asarray(kappa)
    discriminant = gap**2 - 2.0 * lipschitz * size
    root = np.sqrt(np.maximum(discriminant, 0.0))
    distance = (1.0 + MARGIN) * 2.0 * size / np.maximum(gap + root, MARGIN)
    return np.where((gap > 0.0) & (discriminant > 0.0) & (distance <= radius), distance, np.inf)


def aid_from_where_it_stands(game: LQGAN, theta: Array, rows: Rows, whitening: Array, radius: float) -> Array:
    """(e) |a_j - (theta*_{-j} - theta*)| <= error_j, (J,), in the norm |W x|, from theta = theta^(T) alone.

    a_j = (I - Z(theta))^{-1} Delta v_{-j}(theta) is AID's limit there. Neither theta* nor mu is used: with x0 =
    -J(theta)^{-1} v(theta), the equilibria theta + x and theta + x_j are fixed points of

        x   = x0       - J^{-1} (v(theta + x) - v(theta) - J x)
        x_j = x0 + a_j - J^{-1} (v(theta + x_j) - v(theta) - J x_j + (1/N) (grad f_j(theta + x_j) - grad f_j(theta)))

    (Newton-Kantorovich). By Brouwer they exist within r and r_j, the least with |x0| + (K / 2) r^2 <= r and
    |x0 + a_j| + kappa_j r_j + (K / 2) r_j^2 <= r_j, and subtracting the two lines leaves

        |x_j - x - a_j| <= kappa_j r_j + (K / 2) (r_j^2 + r^2).

    Infinite for a row where r or r_j exceeds `radius`, on whose ball K and kappa_j hold.
    """
    half = ball_box(theta, radius, whitening).radius[0]
    lipschitz, kappa = _solved_curvatures(game, theta, rows, whitening, half)
    inverse = np.linalg.inv(game.jacobian(theta))
    start = -inverse @ game.velocity(theta)
    limit = np.linalg.solve(game.eta * game.jacobian(theta), game.row_jumps(theta)[rows].T).T
    own = _least_ball(np.asarray(np.linalg.norm(whitening @ start)), 0.0, lipschitz, radius)
    of_row = _least_ball(np.linalg.norm((start + limit) @ whitening.T, axis=1), kappa, lipschitz, radius)
    return kappa * of_row + 0.5 * lipschitz * (of_row**2 + own**2)


def rank_certificate(scores: Array, errors: Array) -> tuple[float, float]:
    """(d) Kendall's tau of the scores against the truth is at least the first number, from |score - truth| <= error.

    A pair whose scores differ by more than the sum of its errors is ordered rightly; every other pair is counted as a
    wrong one. The second number is the share of rows whose sign is certain, |score| > error.
    """
    count = len(scores)
    certain = np.abs(scores[:, None] - scores) > errors[:, None] + errors
    pairs = count * (count - 1) / 2
    doubtful = pairs - np.triu(certain, 1).sum()
    return float(1.0 - 2.0 * doubtful / pairs), float(np.mean(np.abs(scores) > errors))


def aid_certificate(
    game: LQGAN, run: Array, equilibrium: Array, estimate: Array, rows: Rows, whitening: Array, radius: float
) -> Array:
    """(b) |AID - true influence| in the norm |W x|, where J(theta*) need not be monotone: (J,).

    `run` is theta^(t0) ... theta^(T), `estimate` (J, 4) the AID influence (any M) and the counterfactual starts from
    theta^(t0). The steps of Theorem 2 with its first two parts measured instead of bounded, and the last one by
    the contraction s_j of Z_{-j} on the ball |W (theta - theta*)| <= radius:

        |AID - a_j| + |theta*_{-j} - theta* - a_j| + |theta^(T) - theta*| + s_j^{T - t0} |theta^(t0) - theta*_{-j}|

    Infinite for a row whose counterfactual the ball is not known to hold: it needs |theta^(t0) - theta*| + 2 d_j <=
    radius and s_j < 1, d_j the distance of `equilibrium_shift`.
    """
    shift = equilibrium_shift(game, equilibrium, rows, whitening, radius)
    ball = ball_box(equilibrium, radius, whitening)
    contraction = constants(game, ball, rows, whitening, reach=radius).worst().sigma_removed
    start, end = np.linalg.norm((run[[0, -1]] - equilibrium) @ whitening.T, axis=1)
    inside = (start + 2.0 * shift.distance <= radius) & (contraction < 1.0)
    measured = np.linalg.norm((estimate - shift.limit) @ whitening.T, axis=1)
    settling = end + contraction ** (len(run) - 1) * (start + shift.distance)
    return np.where(inside, measured + shift.error + settling, np.inf)


def itd_in_ball(c: Constants, influence_norms: Array) -> Array:
    """(b) Corollary 2 with the influence measured: r_t >= |ITD - true influence| in the constants' norm, (T + 1, J).

    `influence_norms` = |W ITD_t|, (T + 1, J); `c` holds on a ball that contains run and counterfactual:

        r_{t+1} = sigma r_t + eta L_f' (|ITD_t| + r_t) + (eta L_J / 2) (|ITD_t| + r_t)^2.

    The ball holds the counterfactual when |W (theta^(t) - theta*)| + |W ITD_t| + r_t <= radius at every t. Where
    it overflows nothing is certified.
    """
    error = np.zeros_like(influence_norms)
    for t, norm in enumerate(influence_norms[:-1]):
        distance = norm + error[t]
        with np.errstate(over="ignore"):
            error[t + 1] = c.sigma * error[t] + c.eta * (c.row_curvature + 0.5 * c.lipschitz * distance) * distance
    return error


def run_norms(matrices: Array, rate: float, floor: float = 1e-3) -> Array:
    """Norms |W_t x| fitted to one run, from its matrices Z_t (T, 4, 4): W is (T + 1, 4, 4) with W_T = I.

    P_t = (Z_t^T P_{t+1} Z_t / rate^2 + floor tr(.) I / 4), scaled to trace 4: a discrete Lyapunov equation along
    the run, so that up to the scaling |W_{t+1} Z_t W_t^{-1}| <= rate, whatever the Z_t are.
    """
    norms = np.empty((len(matrices) + 1, 4, 4))
    norms[-1] = np.eye(4)
    for t in range(len(matrices) - 1, -1, -1):
        pulled = norms[t + 1] @ matrices[t] / rate
        metric = pulled.T @ pulled
        metric = metric + floor * np.trace(metric) / 4.0 * np.eye(4)
        norms[t] = np.linalg.cholesky(metric).T * np.sqrt(4.0 / np.trace(metric))
    return norms


@dataclass(frozen=True)
class Certificate:
    """|ITD + correction - true influence| <= radius, a row and a step: (T + 1, J, 4) and (T + 1, J)."""

    correction: Array
    radius: Array

    @property
    def error(self) -> Array:
        """Bound of |ITD - true influence|, Euclidean: (T + 1, J); infinite where nothing is certified."""
        return np.linalg.norm(self.correction, axis=-1) + self.radius


def certificate(
    game: LQGAN,
    trajectory: Array,
    influence: Array,
    rows: Rows,
    rate: float = 1.0,
    reach: float = 1.0,
    members: NDArray[np.bool_] | None = None,
) -> Certificate:
    """(c) An a-posteriori bound of this run's ITD error for `rows`, or sets of them, without retraining.

    `trajectory` (T + 1, 4) is the run, `influence` (T + 1, J, 4) its ITD influence of `rows`; with `members`,
    (J, rows), of J sets of them, whose influences, Delta v_{-S} and B_S are sums over the set. The true influence obeys
    Delta_{t+1} = F_t(Delta_t); with S = diag(1, 1, -1, -1), B_j = d Delta v_{-j} / d theta, Taylor at theta^(t) reads

        F_t(d) = Z_t d + Delta v_{-j} + B_j d - (eta / 2) S V'''[d, d] + rest,
        |rest| <= (eta / 6) |V''''| |d|^3 + (eta / 2N) |f'''| (k.d)^2 |k|       suprema on the segment to theta + d.

    The second-order correction  c_{t+1} = Z_t c_t + B_j u_t - (eta / 2) S V'''[u_t, u_t],  u = ITD + c, is followed
    exactly, and what is left, Delta - u, is bounded by |W_t (Delta_t - u_t)| <= r_t, with

        r_{t+1} = |Z_t + B_j - eta S V'''[u_t, .]| r_t + (eta / 2) |V'''| r_t^2 + |rest|

    in the norms W of `run_norms`. The induction closes by itself: u_t and r_t bound Delta_t, so they say on which
    box around theta^(t) the suprema of step t must hold. Nothing is assumed of the counterfactual run.

    A row whose influence may exceed `reach` in some parameter is given up: infinite from there on. `rate` only
    shapes the norms; any value gives a valid bound.
    """
    total = len(trajectory) - 1
    matrices = np.array([game.step_matrix(theta) for theta in trajectory[:total]]).reshape(total, 4, 4)
    norms = run_norms(matrices, rate)
    sets = np.eye(len(rows)) if members is None else members.astype(float)
    correction, radius = np.zeros((total + 1, len(sets), 4)), np.zeros((total + 1, len(sets)))
    rest: Array = np.zeros(len(sets))
    for t, theta in enumerate(trajectory[:total]):
        guess = np.where(np.isfinite(rest)[:, None], influence[t] + correction[t], 0.0)
        jumps = np.tensordot(sets, game.row_jump_jacobians(theta)[rows], 1)
        third = SIGNS[:, None, None] * game.third(theta)
        linear = correction[t] @ matrices[t].T + np.einsum("jab,jb->ja", jumps, guess)
        bent = np.einsum("abc,jb,jc->ja", third, guess, guess, optimize=True)
        frame = _Frame(norms[t + 1], np.linalg.inv(norms[t]))
        rest = _next_radius(game, theta, matrices[t], jumps, third, guess, rest, frame, rows, reach, sets)
        correction[t + 1] = np.where(np.isfinite(rest)[:, None], linear - 0.5 * game.eta * bent, 0.0)
        radius[t + 1] = rest * np.linalg.norm(np.linalg.inv(norms[t + 1]), 2)
    return Certificate(correction, radius)


@dataclass(frozen=True)
class _Frame:
    """Coordinates of one step: W_{t+1} for what comes out, W_t^{-1} for what goes in."""

    forward: Array
    backward: Array


def _next_radius(
    game: LQGAN,
    theta: Array,
    matrix: Array,
    jumps: Array,
    third: Array,
    guess: Array,
    radius: Array,
    frame: _Frame,
    rows: Rows,
    reach: float,
    sets: Array,
) -> Array:
    """r_{t+1} of `certificate` from r_t: (J,)."""
    extent = np.abs(guess) + radius[:, None] * np.linalg.norm(frame.backward, axis=1)
    alive = (extent <= reach).all(axis=1)
    extent, radius = np.where(alive[:, None], extent, 0.0), np.where(alive, radius, 0.0)
    fourth = derivative_suprema(game, theta, extent.max(axis=0)).fourth
    bilinear = trilinear_norm(whiten(third, frame.forward, frame.backward))
    cubic = np.einsum("abcd,jb,jc,jd->ja", fourth, extent, extent, extent, optimize=True)

    k = game.features[rows]
    along = extent[:, 2:] @ np.abs(k).T
    logits = k @ theta[2:]
    push = np.linalg.norm(k @ frame.forward[:, 2:].T, axis=1) / game.rows.size
    tangent = matrix + jumps - game.eta * np.einsum("abc,jc->jab", third, guess)
    gain = np.linalg.norm(frame.forward @ tangent @ frame.backward, 2, axis=(1, 2))
    rest = np.linalg.norm(cubic @ np.abs(frame.forward).T, axis=1) / 6.0
    rest += 0.5 * (np.sum(sets * push * sigmoid_suprema(logits, along).third * along**2, axis=1) + bilinear * radius**2)
    return np.where(alive, (1.0 + MARGIN) * (gain * radius + game.eta * rest), np.inf)
