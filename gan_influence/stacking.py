"""May several models of a run share their operations? Those that torch cannot batch are computed one after another."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gan_influence.adjoint import FieldGraph
from gan_influence.batch import Inputs
from gan_influence.devices import is_out_of_memory, repeatable
from gan_influence.state import expanded
from gan_influence.surroundings import warn
from gan_influence.trace import Trace

__all__ = ["stacks"]


def stacks(trace: Trace) -> bool:
    """Can models of this game be stacked? Found out once, by gradients of two models together and of each alone.

    ``torch.func.vmap`` has no rule for some operations, and a wrong one for others: it trains the padding row of an
    ``Embedding``. Where it fails or differs, ``trace.game.stacks`` becomes ``False``.

    Warns:
        RuntimeWarning: they cannot; it says why.
    """
    game = trace.game
    if game.stacks is None:
        with repeatable(trace.weights.device):
            reason = _why_not(trace)
        game.stacks = reason is None
        if reason is not None:
            warn(f"models of this game are computed one after another, not as one batch, which takes longer: {reason}")
    return game.stacks


def _why_not(trace: Trace) -> str | None:
    theta, end = trace.theta(trace.first), max(trace.steps - 1, trace.first)
    noise = torch.randn(3, len(theta), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(theta)
    thetas = torch.stack([theta, theta + 0.01 * noise[0]])
    for t in sorted({trace.first, (trace.first + end) // 2}):
        inputs = trace.inputs(t)
        try:
            off = _off(trace, inputs, thetas, noise[1:])
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            return str(error).split("\n")[0]
        if off > 1e4 * torch.finfo(theta.dtype).eps:
            return f"torch's derivatives of step {t} of two together differ from those of each alone by {off:.1g}"
    return None


def _off(trace: Trace, inputs: Inputs, thetas: Float[Tensor, "2 d"], cotangents: Float[Tensor, "2 d"]) -> float:
    """How far two models together, and two cotangents of one, are from each alone, relative to the largest number."""

    def pulled_back(theta: Tensor, weights: Tensor, cotangent: Tensor) -> Float[Tensor, "*models d+d"]:
        own = inputs._replace(weights=weights)
        field = FieldGraph(trace.game, theta, own, expanded(held, theta.shape[:-1]))
        value, product = field.value, field.both(cotangent)[0]
        return torch.cat([value.expand_as(product), product], dim=-1)

    held = trace.state(trace.first).held
    weights = inputs.weights.repeat(2, 1)
    weights[1, 0] = 0
    one, other, second = (pulled_back(thetas[k], weights[k], cotangents[c]) for k, c in ((0, 0), (1, 0), (0, 1)))
    expected = torch.cat([torch.stack([one, other]), torch.stack([one, second])])
    models = pulled_back(thetas, weights, cotangents[:1].expand_as(thetas))
    found = torch.cat([models, pulled_back(thetas[0], weights[0], cotangents)])
    difference = torch.where(expected.isfinite(), found - expected, 0.0)  # what is NaN alone may be so together
    return float(difference.abs().max() / expected[expected.isfinite()].abs().max())
