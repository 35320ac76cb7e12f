"""Norms |x|_P = |W x|, P = W^T W, given by their `whitening` W, and what becomes of tensors in them.

Vectors become W x, matrices W A W^{-1}. The proofs of the bounds use nothing of the Euclidean norm but the triangle
inequality and submultiplicativity, so each bound holds in each norm.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_discrete_lyapunov
from scipy.optimize import minimize

from verification.dense_lqgan import LQGAN, SIGNS, Array

__all__ = ["balanced_norm", "lyapunov_norm", "run_norms", "trilinear_norm", "whiten"]


def whiten(tensor: Array, forward: Array, backward: Array) -> Array:
    """T'(a, b) = W T(V a, V b) for T (4, 4, 4) with its first index out; W = `forward`, V = `backward`."""
    return np.einsum("ia,abc,bj,ck->ijk", forward, tensor, backward, backward, optimize=True)


def trilinear_norm(tensor: Array) -> float:
    """An upper bound of sup |T(a, b, c)| over unit a, b, c: the least spectral norm of T's three unfoldings."""
    unfoldings = (np.moveaxis(tensor, axis, 0).reshape(4, 16) for axis in range(3))
    return min(float(np.linalg.norm(unfolding, 2)) for unfolding in unfoldings)


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
