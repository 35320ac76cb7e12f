"""Densities in the plane: of generated points, estimated with Gaussian kernels, and the true one smoothed alike."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

__all__ = ["kernel_density", "log_density", "total_variation", "true_density", "true_log_density"]

MEAN = (1.0, 1.0)
COVARIANCE = ((1.0, 0.8), (0.8, 1.0))  # ICLR C.2
GRID = np.linspace(-4.0, 6.0, 101)  # five standard deviations of the true density around its mean
ROWS_AT_ONCE = 500


def kernel_density(points: np.ndarray, axis: np.ndarray, bandwidth: float) -> np.ndarray:
    """The points' density on the grid ``axis`` x ``axis``, ``(x, y)``, by Gaussian kernels of that bandwidth.

    A Gaussian kernel is a product over coordinates, so that the sum over points is one matrix product.
    """
    x, y = (
        np.exp(-0.5 * ((axis[:, None] - points[None, :, k]) / bandwidth) ** 2) / (bandwidth * np.sqrt(2 * np.pi))
        for k in (0, 1)
    )
    return x @ y.T / len(points)


def log_density(points: np.ndarray, at: np.ndarray, bandwidth: float) -> np.ndarray:
    """The logarithm of the points' kernel density at other points, ``(n,)``; finite however far away they are."""
    normaliser = np.log(len(points) * 2 * np.pi * bandwidth**2)
    parts = []
    for begin in range(0, len(at), ROWS_AT_ONCE):
        block = at[begin : begin + ROWS_AT_ONCE, None, :]
        squares = ((block - points[None]) ** 2).sum(axis=-1)
        parts.append(logsumexp(-0.5 * squares / bandwidth**2, axis=1) - normaliser)
    return np.concatenate(parts)


def true_density(axis: np.ndarray, bandwidth: float = 0.0) -> np.ndarray:
    """2D-Normal's density on the grid ``axis`` x ``axis``, smoothed as by a kernel: N(mu, Sigma + h^2 I), exactly."""
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    return _smoothed(bandwidth).pdf(grid)


def true_log_density(at: np.ndarray, bandwidth: float = 0.0) -> np.ndarray:
    """The same, its logarithm, at points ``(n, 2)``."""
    return np.atleast_1d(_smoothed(bandwidth).logpdf(at))


def total_variation(points: np.ndarray, bandwidth: float) -> float:
    """Half the integral of ``|p_G - p_true|``, both smoothed by the same kernel: 0 where they agree, at most 1."""
    cell = (GRID[1] - GRID[0]) ** 2
    difference = kernel_density(points, GRID, bandwidth) - true_density(GRID, bandwidth)
    return float(0.5 * np.abs(difference).sum() * cell)


def _smoothed(bandwidth: float) -> multivariate_normal:
    return multivariate_normal(MEAN, np.array(COVARIANCE) + bandwidth**2 * np.eye(2))
