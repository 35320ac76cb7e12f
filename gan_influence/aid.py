"""Approximate implicit differentiation: the derivative of the equilibrium (TNNLS Alg. 2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, gmres
from torch import Tensor
from tqdm import tqdm

from gan_influence.adjoint import FieldGraph
from gan_influence.checks import is_real, is_whole
from gan_influence.itd import check_damping
from gan_influence.metrics.metric import Metric, metric_gradients
from gan_influence.recording import Recorded
from gan_influence.trace import Trace

__all__ = ["SOLVERS", "ConvergenceError", "aid"]

SOLVERS = ("neumann", "gmres")
_LARGEST_BASIS = 200  # GMRES keeps that many vectors of d numbers, then restarts


class ConvergenceError(RuntimeError):
    """A series or solver did not converge; the message says at which step of training and what to do."""


def aid(
    trace: Trace,
    metric: Metric,
    terms: int | Sequence[int] = 1000,
    damping: float = 0.0,
    solver: str = "neumann",
    *,
    scale: float | None = None,
    at: Sequence[int] | None = None,
    progress: bool = False,
) -> Float[Tensor, "*stops *terms N"]:
    r"""Score all N rows from the final parameters alone (TNNLS eq. 14, 16b, 18).

    ``score_j = dv_j(theta_T) . w`` with ``w = sum_{m<M} (Z^T)^m grad E`` (``solver="neumann"``) or its limit, the
    solution of ``(I - Z^T) w = grad E`` (``solver="gmres"``), where ``Z = I - eta (J + gamma I)``.

    The learning rates are all of the optimiser that enters: at an equilibrium momentum is spent, the averaged generator
    is the generator, and the order of moves does not matter. The metric's gradient is taken where the metric looks.

    Args:
        trace: the training run; only its end is used.
        metric: what is measured.
        terms: ``M >= 1``, the terms of the series, m = 0 ... M-1; several numbers are read off one series. For GMRES
            the largest number of products with ``J^T``. A series that diverges without overflowing is returned as it
            is, as in the paper; GMRES tells what it should have tended to.
        damping: gamma >= 0 (TNNLS IV-C4).
        solver: ``"neumann"`` or ``"gmres"``.
        scale: eta of TNNLS eq. 11; by default each player's learning rate at the last step.
        at: stopping times: score the run as if it had ended after each of these steps. The batch is that of the
            trace's last step for all.
        progress: show a progress bar.

    Returns:
        ``(N,)``; with several ``terms`` ``(len(terms), N)``; with ``at`` a leading dimension ``len(at)``.

    Raises:
        ValueError: M < 1, damping < 0, an unknown solver, several ``terms`` for GMRES, ``at`` outside the trace.
        TypeError: the metric is not differentiable, not a scalar, or does not depend on the generator.
        ConvergenceError: the series overflowed, or GMRES missed its tolerance within ``terms`` products.
    """
    check_damping(damping)
    counts = _check_terms(terms)
    if solver not in SOLVERS:
        raise ValueError(f"unknown solver {solver!r}; known solvers: {', '.join(SOLVERS)}")
    if solver == "gmres" and not is_whole(terms):
        raise ValueError(
            "GMRES has no partial sums to read off: give one number of terms, the most products it may use"
        )
    if scale is not None and (not is_real(scale) or scale <= 0):
        raise ValueError(f"scale must be a finite number above 0, got {scale!r}")

    stops = [trace.steps] if at is None else trace.stops(at)
    theta = torch.stack([trace.theta(stop) for stop in stops])
    seen = torch.stack([trace.seen(stop) for stop in stops])
    gradient = metric_gradients(metric, trace.game, seen)
    last = max(trace.steps - 1, 0)
    eta = trace.updates.learning_rates(theta, last) if scale is None else theta.new_full((trace.game.size,), scale)
    inputs = trace.inputs(last)

    weights = inputs.of_batch(trace.weights)
    if solver == "neumann":
        graph = FieldGraph(trace.game, theta, weights.repeat(len(stops), 1), inputs.rows, inputs.latents)
        sums = _neumann(graph, gradient, eta, damping, counts, stops, progress)
        rows = torch.stack([graph.row_terms(-eta * total) for total in sums], dim=1)
    else:
        rows = theta.new_empty(len(stops), 1, len(weights))
        for k, stop in enumerate(stops):
            graph = FieldGraph(trace.game, theta[k], weights, inputs.rows, inputs.latents)
            rows[k, 0] = graph.row_terms(-_gmres(graph, gradient[k], damping, counts[0], stop))

    scores = torch.zeros(*rows.shape[:2], trace.size, dtype=theta.dtype, device=theta.device)
    inputs.add_to_rows(scores, -weights * rows)
    if is_whole(terms):
        scores = scores.squeeze(1)
    return scores[0] if at is None else scores


def _neumann(
    graph: FieldGraph,
    gradient: Float[Tensor, "stops d"],
    eta: Float[Tensor, " d"],
    damping: float,
    counts: list[int],
    stops: list[int],
    progress: bool,
) -> list[Float[Tensor, "stops d"]]:
    """``sum_{m<M} (Z^T)^m grad E`` for each M of ``counts``, from one series."""
    term, total, sums = gradient, gradient.clone(), {1: gradient}
    product = Recorded(graph.transpose_product)
    for m in tqdm(range(1, max(counts)), desc="aid", unit="term", disable=not progress):
        scaled = eta * term
        term = term - product(scaled) - damping * scaled
        total += term
        if m + 1 in counts:
            sums[m + 1] = total.clone()
    overflown = ~total.isfinite().all(-1)
    if overflown.any():
        where = [stop for stop, bad in zip(stops, overflown.tolist(), strict=True) if bad]
        raise ConvergenceError(
            f"the Neumann series of {max(counts)} terms overflowed at step {', '.join(map(str, where))}: Z = I - eta J "
            "has an eigenvalue outside the unit circle there. Take fewer terms, add damping, or use solver='gmres'"
        )
    return [sums[count] for count in counts]


def _gmres(
    graph: FieldGraph, gradient: Float[Tensor, " d"], damping: float, products: int, stop: int
) -> Float[Tensor, " d"]:
    """``eta w`` for the limit ``w``: ``(I - Z^T) w = grad E`` is ``(J + gamma I)^T (eta w) = grad E``."""

    def product(vector: np.ndarray) -> np.ndarray:
        c = torch.from_numpy(np.ascontiguousarray(vector)).to(gradient).reshape(-1)
        return (graph.transpose_product(c) + damping * c).double().cpu().numpy()

    b = gradient.double().cpu().numpy()
    tolerance = 1e-12 if gradient.dtype == torch.float64 else 1e-6
    operator = LinearOperator((len(b), len(b)), matvec=product, dtype=np.float64)
    restart = min(products, len(b), _LARGEST_BASIS)
    solution, _ = gmres(operator, b, rtol=tolerance, atol=0.0, restart=restart, maxiter=max(products // restart, 1))
    residual = float(np.linalg.norm(product(solution) - b) / max(np.linalg.norm(b), np.finfo(float).tiny))
    if not residual <= 1e3 * tolerance:
        raise ConvergenceError(
            f"GMRES left a relative residual of {residual:.1e} after {products} products at step {stop}: "
            "allow more terms, or add damping: J is close to singular"
        )
    return torch.from_numpy(solution).to(gradient)


def _check_terms(terms: int | Sequence[int]) -> list[int]:
    counts = list(terms) if isinstance(terms, Sequence | np.ndarray) else [terms]
    if not counts or not all(is_whole(count) and count >= 1 for count in counts):
        raise ValueError(f"terms must be a whole number >= 1, or several, got {terms!r}")
    return counts
