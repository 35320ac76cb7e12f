"""A dense reference for LQGAN: every derivative in closed form, in NumPy, for four parameters.

Discriminator D(psi, x) = psi_1 x^2 + psi_2 x, generator G(phi, z) = phi_1 z + phi_2 (TNNLS Section VI-A1),
parameters theta = (phi_1, phi_2, psi_1, psi_2), and for row weights w (1 = kept, 0 = removed, the
denominator unchanged)

    V_w(theta) = (1/N) sum_i w_i f(D(psi, x_i)) + (1/N_z) sum_z g(D(psi, G(phi, z)))
                 + (lambda_1 |phi|^2 - lambda_2 |psi|^2) / 2            (2), (6)
    f(a) = log sigmoid(a),  g(a) = f(-a)

The paper prints f(a) = -log(1 / (1 + exp(-a))), which is convex; the objective (1) asks for a concave f, and
log sigmoid is the one of the original GAN. Everything here is float64 and independent of PyTorch: the
estimators are checked against it.

Any `theta` may carry leading axes, (..., 4), and `weights` is (..., N) and broadcasts against them: one
call evaluates many counterfactual games at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

Array = NDArray[np.floating]

SIGNS = np.array([1.0, 1.0, -1.0, -1.0])
"""v = SIGNS * grad V and J = SIGNS[:, None] * Hessian V: the generator descends, the discriminator ascends (4)."""


@dataclass(frozen=True)
class SigmoidDerivatives:
    """Derivatives at logits `a` of f = log sigmoid, orders 1 to 3, arrays shaped like `a`.

    With s = sigmoid(a):  f' = 1 - s,  f'' = -s (1 - s),  f''' = -s (1 - s)(1 - 2 s).
    """

    first: Array
    second: Array
    third: Array


def log_sigmoid(logits: Array) -> Array:
    """f(a) = log sigmoid(a) = -softplus(-a), without overflow."""
    return -np.logaddexp(0.0, -logits)


def derivatives_of_f(logits: Array) -> SigmoidDerivatives:
    """f', f'', f''' of f(a) = log sigmoid(a)."""
    rest, sigmoid = expit(-logits), expit(logits)
    second = -sigmoid * rest
    return SigmoidDerivatives(rest, second, second * (rest - sigmoid))


def derivatives_of_g(logits: Array) -> SigmoidDerivatives:
    """g', g'', g''' of g(a) = f(-a): the chain rule flips the odd orders of f at -a."""
    at_minus = derivatives_of_f(-logits)
    return SigmoidDerivatives(-at_minus.first, at_minus.second, -at_minus.third)


def discriminator(y: Array, quadratic: Array, linear: Array) -> Array:
    """D(psi, y) = psi_1 y^2 + psi_2 y."""
    return (quadratic * y + linear) * y


@dataclass(frozen=True)
class FakeLogits:
    """The polynomial a(theta) = D(psi, G(phi, z)) and its derivatives in theta, one per latent.

    With y = phi_1 z + phi_2, h = 2 psi_1 y + psi_2 and u = (z, 1):

        a = psi_1 y^2 + psi_2 y,    grad a = (h u, y^2, y),
        a_phi,phi = 2 psi_1 u u^T,  a_phi,psi = u (2 y, 1)^T,  a_phi,phi,psi_1 = 2 u u^T,  the rest is 0.

    Shapes: value (..., N_z), gradient (..., N_z, 4), hessian (..., N_z, 4, 4), third (N_z, 4, 4, 4).
    """

    value: Array
    gradient: Array
    hessian: Array
    third: Array


def fake_logits(theta: Array, latents: Array) -> FakeLogits:
    """Evaluate `FakeLogits` at parameters (..., 4) and latents (N_z,)."""
    scale, shift, quadratic, linear = (theta[..., k, None] for k in range(4))
    y = scale * latents + shift
    slope = 2.0 * quadratic * y + linear
    ones = np.ones_like(y)
    inputs = np.stack([latents, np.ones_like(latents)], axis=-1)
    outer = inputs[:, :, None] * inputs[:, None, :]

    gradient = np.concatenate([slope[..., None] * inputs, np.stack([y * y, y], axis=-1)], axis=-1)
    cross = inputs[:, :, None] * np.stack([2.0 * y, ones], axis=-1)[..., None, :]
    hessian = np.zeros((*y.shape, 4, 4), dtype=y.dtype)
    hessian[..., :2, :2] = 2.0 * quadratic[..., None, None] * outer
    hessian[..., :2, 2:] = cross
    hessian[..., 2:, :2] = np.swapaxes(cross, -1, -2)
    third = np.zeros((len(latents), 4, 4, 4))
    third[:, :2, :2, 2] = third[:, :2, 2, :2] = third[:, 2, :2, :2] = 2.0 * outer
    return FakeLogits(discriminator(y, quadratic, linear), gradient, hessian, third)


@dataclass(frozen=True)
class LQGAN:
    """The game: rows x (N,), latents z (N_z,), regularisation (lambda_1, lambda_2) and learning rate eta.

    Raises:
        ValueError: if the rows or latents are not non-empty vectors of finite numbers, or `eta` is not
        positive.
    """

    rows: Array
    latents: Array
    eta: float = 0.01
    l2: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        for name in ("rows", "latents"):
            values = np.asarray(getattr(self, name), dtype=np.float64)
            if values.ndim != 1 or values.size == 0 or not np.all(np.isfinite(values)):
                raise ValueError(f"{name} must be a non-empty vector of finite numbers, got shape {values.shape}")
            object.__setattr__(self, name, values)
        if not self.eta > 0:
            raise ValueError(f"eta must be positive, got {self.eta}")

    @property
    def features(self) -> Array:
        """k(x) = (x^2, x), the gradient of D in psi: (N, 2)."""
        return np.stack([self.rows**2, self.rows], axis=-1)

    @property
    def regulariser(self) -> Array:
        """The diagonal of the Hessian of R: (lambda_1, lambda_1, -lambda_2, -lambda_2)."""
        return np.repeat([self.l2[0], -self.l2[1]], 2)

    def value(self, theta: Array, weights: Array | None = None) -> Array:
        """V_w(theta), eq. (2) and (6): (...)."""
        real = log_sigmoid(theta[..., 2:] @ self.features.T) * self._weights(weights)
        fake = log_sigmoid(-fake_logits(theta, self.latents).value)
        penalty = 0.5 * (theta**2) @ self.regulariser
        return real.mean(axis=-1) + fake.mean(axis=-1) + penalty

    def _weights(self, weights: Array | None) -> Array:
        return np.ones(self.rows.size) if weights is None else weights

    def gradient(self, theta: Array, weights: Array | None = None) -> Array:
        """Gradient of V_w in theta: (..., 4)."""
        real = expit(-theta[..., 2:] @ self.features.T) * self._weights(weights)
        y = theta[..., :1] * self.latents + theta[..., 1:2]
        quadratic, linear = theta[..., 2:3], theta[..., 3:4]
        fake = -expit(discriminator(y, quadratic, linear))
        slope = fake * (2.0 * quadratic * y + linear)
        by_phi = np.stack([slope @ self.latents / self.latents.size, slope.mean(axis=-1)], axis=-1)
        by_psi = np.stack([(fake * y * y).mean(axis=-1), (fake * y).mean(axis=-1)], axis=-1)
        by_psi = by_psi + real @ self.features / self.rows.size
        return np.concatenate([by_phi, by_psi], axis=-1) + theta * self.regulariser

    def velocity(self, theta: Array, weights: Array | None = None) -> Array:
        """v_w(theta) = (grad_phi V_w, -grad_psi V_w), eq. (4) and (8): (..., 4)."""
        return SIGNS * self.gradient(theta, weights)

    def hessian(self, theta: Array, weights: Array | None = None) -> Array:
        """Hessian of V_w: (..., 4, 4).  Per latent g'' a_i a_j + g' a_ij, per row w_i f'' k k^T."""
        fake = fake_logits(theta, self.latents)
        g = derivatives_of_g(fake.value)
        result = np.einsum("...n,...ni,...nj->...ij", g.second, fake.gradient, fake.gradient)
        result = (result + np.einsum("...n,...nij->...ij", g.first, fake.hessian)) / self.latents.size
        f = derivatives_of_f(theta[..., 2:] @ self.features.T)
        weighted = f.second * self._weights(weights)
        result[..., 2:, 2:] += np.einsum("...n,ni,nj->...ij", weighted, self.features, self.features) / self.rows.size
        return result + np.diag(self.regulariser)

    def third(self, theta: Array) -> Array:
        """Third derivatives of V (w = 1), a symmetric tensor (4, 4, 4); theta is (4,).

        Per latent, with a = D(psi, G(phi, z)):  g''' a_i a_j a_k + g'' (a_ij a_k + a_ik a_j + a_jk a_i) +
        g' a_ijk.
        """
        fake = fake_logits(theta, self.latents)
        g = derivatives_of_g(fake.value)
        n = self.latents.size
        result = np.einsum("n,ni,nj,nk->ijk", g.third, fake.gradient, fake.gradient, fake.gradient, optimize=True) / n
        mixed = np.einsum("n,nij,nk->ijk", g.second, fake.hessian, fake.gradient, optimize=True) / n
        result += mixed + mixed.transpose(0, 2, 1) + mixed.transpose(2, 1, 0)
        result += np.einsum("n,nijk->ijk", g.first, fake.third) / n
        k, f = self.features, derivatives_of_f(theta[2:] @ self.features.T)
        result[2:, 2:, 2:] += np.einsum("n,ni,nj,nk->ijk", f.third, k, k, k, optimize=True) / self.rows.size
        return result

    def jacobian(self, theta: Array, weights: Array | None = None) -> Array:
        """J(theta) = d v / d theta: (..., 4, 4), not symmetric; [[V_pp, V_pq], [-V_qp, -V_qq]]."""
        return SIGNS[:, None] * self.hessian(theta, weights)

    def step_matrix(self, theta: Array, weights: Array | None = None) -> Array:
        """Z(theta) = I - eta J(theta): (..., 4, 4)."""
        return np.eye(4) - self.eta * self.jacobian(theta, weights)

    def row_jumps(self, theta: Array) -> Array:
        """Delta v_{-j}(theta) = -(eta / N) grad_theta f(D(psi, x_j)) for every row j, eq. (9): (..., N, 4)."""
        first = derivatives_of_f(theta[..., 2:] @ self.features.T).first
        jumps = np.zeros((*first.shape, 4), dtype=first.dtype)
        jumps[..., 2:] = -self.eta / self.rows.size * first[..., None] * self.features
        return jumps

    def row_jump_jacobians(self, theta: Array) -> Array:
        """d Delta v_{-j} / d theta = -(eta / N) f''(D_j) k_j k_j^T in the psi block: (..., N, 4, 4)."""
        second = derivatives_of_f(theta[..., 2:] @ self.features.T).second
        result = np.zeros((*second.shape, 4, 4), dtype=second.dtype)
        outer = self.features[:, :, None] * self.features[:, None, :]
        result[..., 2:, 2:] = -self.eta / self.rows.size * second[..., None, None] * outer
        return result

    def without(self, rows: ArrayLike) -> Array:
        """Weights of the games with one row removed, one game per entry of `rows`: (len(rows), N).

        Raises:
            IndexError: if an entry is not a row of the data.
        """
        removed = np.atleast_1d(np.asarray(rows, dtype=np.intp))
        outside = removed[(removed < 0) | (removed >= self.rows.size)]
        if outside.size:
            raise IndexError(f"rows contains {outside[0]}, but the data has {self.rows.size} rows")
        weights = np.ones((removed.size, self.rows.size))
        weights[np.arange(removed.size), removed] = 0.0
        return weights

    def train(self, start: Array, steps: int, weights: Array | None = None) -> Array:
        """AGD (3), or counterfactual AGD (7) with weights (K, N): (steps + 1, 4) or (steps + 1, K, 4).

        Raises:
            FloatingPointError: if the parameters stop being finite; names the step.
        """
        theta = np.array(start, dtype=np.float64)
        if weights is not None and weights.ndim > 1:
            theta = np.broadcast_to(theta, (len(weights), 4)).copy()
        trajectory = np.empty((steps + 1, *theta.shape))
        trajectory[0] = theta
        for t in range(steps):
            theta = theta - self.eta * self.velocity(theta, weights)
            if not np.all(np.isfinite(theta)):
                raise FloatingPointError(f"parameters are not finite after step {t + 1}; lower eta ({self.eta})")
            trajectory[t + 1] = theta
        return trajectory

    def equilibrium(
        self, start: Array, weights: Array | None = None, tolerance: float = 1e-13, iterations: int = 100
    ) -> Array:
        """theta*(w): the root of v_w by damped Newton steps from `start`, (4,) with weights (N,) or None.

        Raises:
            ArithmeticError: if |v_w| does not fall below `tolerance`.
        """
        theta = np.array(start, dtype=np.float64)
        velocity = self.velocity(theta, weights)
        for _ in range(iterations):
            if np.linalg.norm(velocity) <= tolerance:
                return theta
            step = np.linalg.solve(self.jacobian(theta, weights), velocity)
            for fraction in 0.5 ** np.arange(40):
                candidate = theta - fraction * step
                new = self.velocity(candidate, weights)
                if np.linalg.norm(new) < np.linalg.norm(velocity):
                    break
            else:
                raise ArithmeticError(
                    f"Newton stalled at |v| = {np.linalg.norm(velocity):.1e}; start nearer to the root"
                )
            theta, velocity = candidate, new
        raise ArithmeticError(f"Newton: |v| = {np.linalg.norm(velocity):.1e} after {iterations} steps; start nearer")


def moment_matching(rows: Array, latents: Array) -> Array:
    """The equilibrium of the unregularised game when data and latents are equal up to an affine map.

    phi_1 = std(x) / std(z), phi_2 = mean(x) - phi_1 mean(z), psi = 0 (Nagarajan and Kolter, Theorem D.1).
    For lambda = 0 it is an exact equilibrium of the *empirical* game, since D then has only these two
    moments to tell x from G(z).
    """
    scale = np.std(rows) / np.std(latents)
    return np.array([scale, np.mean(rows) - scale * np.mean(latents), 0.0, 0.0])


def itd(game: LQGAN, trajectory: Array) -> Array:
    """ITD influence of every row on theta^(t), for every t, eq. (10) by recursion (9): (T + 1, N, 4).

    I_0 = 0,  I_{t+1} = Z(theta^(t)) I_t + Delta v_{-j}(theta^(t)), no sum truncated.
    """
    influence = np.zeros((len(trajectory), game.rows.size, 4))
    for t, theta in enumerate(trajectory[:-1]):
        influence[t + 1] = influence[t] @ game.step_matrix(theta).T + game.row_jumps(theta)
    return influence


def aid(game: LQGAN, theta: Array, terms: int) -> Array:
    """AID influence of every row, sum_{m < M} Z(theta)^m Delta v_{-j}(theta), eq. (14): (N, 4)."""
    if terms < 1:
        raise ValueError(f"terms must be at least 1 (the paper's M > 0), got {terms}")
    transposed = game.step_matrix(theta).T
    jumps = game.row_jumps(theta)
    total = jumps.copy()
    for _ in range(terms - 1):
        total = total @ transposed + jumps
    return total


def aid_limit(game: LQGAN, theta: Array) -> Array:
    """The limit M -> infinity of AID, (I - Z(theta))^{-1} Delta v_{-j}(theta), eq. (12): (N, 4)."""
    return np.linalg.solve(game.eta * game.jacobian(theta), game.row_jumps(theta).T).T
