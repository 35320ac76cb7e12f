"""LQGAN's training written out by hand in torch, to be differentiated as one long expression.

Nothing here calls the library's gradients or updates: costs, order of moves and average are spelled out on the four
numbers theta, and autograd goes through the whole run.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import gan_influence as gi

__all__ = ["removal_scores", "run"]

_GENERATOR = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
_DISCRIMINATOR = 1 - _GENERATOR
MOVES: dict[str, Callable[[int], tuple[Tensor, ...]]] = {
    "simultaneous": lambda t: (_GENERATOR + _DISCRIMINATOR,),
    "alternating": lambda t: (_DISCRIMINATOR, _GENERATOR),
    "turns": lambda t: (_GENERATOR,) if t % 2 else (_DISCRIMINATOR,),
}
"""Which parameters move, in the parts of step t."""


def run(
    trace: gi.Trace, weights: Tensor, rates: tuple[float, float], order: str = "simultaneous", beta: float = 1.0
) -> tuple[Tensor, Tensor]:
    """``(theta, average)`` at the end of minimax SGD on the trace's batches, from its start.

    The average is ``(1 - beta) average + beta phi`` (TNNLS Appendix B-C), beside the discriminator's own parameters.
    """
    eta = rates[0] * _GENERATOR + rates[1] * _DISCRIMINATOR
    theta = average = trace.theta(0).clone().requires_grad_()
    for t in range(trace.steps):
        inputs = trace.inputs(t)
        for moving in MOVES[order](t):
            theta = theta - moving * eta * _field(theta, inputs.rows, inputs.latents, inputs.of_batch(weights))
        average = torch.cat([(1 - beta) * average[:2] + beta * theta[:2], theta[2:]])
    return theta, average


def removal_scores(trace: gi.Trace, measure: Callable[[Tensor], Tensor]) -> np.ndarray:
    """``- d measure(w) / d w_j`` at w = 1 for every row, by autograd: (N, k) for k measured numbers."""
    weights = torch.ones(trace.size, dtype=torch.float64, requires_grad=True)
    measured = measure(weights)
    slopes = [torch.autograd.grad(one, weights, retain_graph=True)[0] for one in measured]
    return -torch.stack(slopes, dim=1).numpy()


def _field(theta: Tensor, rows: Tensor, latents: Tensor, weights: Tensor) -> Tensor:
    """``(grad_phi V, -grad_psi V)``."""
    scale, shift, quadratic, linear = theta
    x, y = rows.reshape(-1), scale * latents.reshape(-1) + shift
    real, fake = ((quadratic * point + linear) * point for point in (x, y))
    value = (weights * logsigmoid(real)).sum() / len(x) + logsigmoid(-fake).sum() / len(y)
    (slope,) = torch.autograd.grad(value, theta, create_graph=True)
    return (_GENERATOR - _DISCRIMINATOR) * slope
