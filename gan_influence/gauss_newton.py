"""The Gauss-Newton curvature: the Hessian of a game whose model is replaced by its tangent (Schraudolph, 2002)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vjp

from gan_influence import losses, trees
from gan_influence.batch import Inputs
from gan_influence.costs import Costs
from gan_influence.game import Game
from gan_influence.gans import Supervised
from gan_influence.players import Players
from gan_influence.stacking import stacks
from gan_influence.trace import Trace

__all__ = ["CURVATURES", "curved"]

CURVATURES = ("hessian", "gauss_newton")

_ROWS_TOGETHER = 1000  # whose losses' own Hessians are looked at


def curved(trace: Trace, curvature: str, theta: Float[Tensor, "stops d"]) -> Game:
    """The game whose field has this derivative at each ``theta``: the run's own, or that of its model's tangent.

    Raises:
        ValueError: an unknown curvature; or one that is not defined: the game is not a model and a loss of its outputs,
            or that loss is not convex in them.
    """
    if curvature not in CURVATURES:
        raise ValueError(f"curvature must be one of {', '.join(CURVATURES)}, got {curvature!r}")
    game = trace.game
    if curvature == "hessian":
        return game
    if not isinstance(game.cost, Supervised):
        raise ValueError(
            "curvature='gauss_newton' is defined for a model and a loss that is convex in its outputs, as "
            f"gi.Game(None, model, loss='cross_entropy') has them; this game, of {', '.join(game.players)}, has a cost "
            "of its own: take curvature='hessian', with damping where it is indefinite"
        )
    if game.cost.loss not in losses.ONE_PLAYER_LOSSES.values():
        for one in theta:
            _check_convex(trace, one)
    stacks(trace)
    tangent = copy.copy(game)
    tangent.cost = Tangent(game.cost.loss)
    return trace.recorded.setdefault((game, curvature), tangent)


@dataclass(frozen=True)
class Tangent:
    """:class:`gan_influence.gans.Supervised` of ``f(x; theta_0) + Df(x; theta_0) (theta - theta_0)``, at ``theta_0``.

    In value and first derivative it is that of f itself, rows' weights included. Its Hessian is the Gauss-Newton matrix
    ``sum_i w_i Df_i^T (Hessian of the loss in the outputs) Df_i / |B|``, which is positive semidefinite. ``Df u`` is
    taken as the derivative of ``c -> Df^T c``, so that modules need no rule for forward differentiation.
    """

    loss: losses.PairCost
    sees_rows = "model"

    def __call__(self, players: Players, batch: Inputs) -> Costs:
        inputs, targets = batch.rows
        model, theta = players.game.players["model"], players.parameters["model"]
        given = inputs if isinstance(inputs, tuple) else (inputs,)

        def outputs(theta: Float[Tensor, " d"]) -> Tensor:
            held = {name: value.clone() for name, value in players.held.items()}  # modules write there
            return model.at(theta, held, players.mode)(*given)

        at = theta.detach()
        value, pull = vjp(outputs, at)[:2]
        push = vjp(lambda c: pull(c)[0], torch.zeros_like(value))[1]
        return Costs({"model": self.loss(value + push(theta - at)[0], targets)})


def _check_convex(trace: Trace, theta: Float[Tensor, " d"]) -> None:
    """Is the loss convex in the outputs, at those of all rows?"""
    inputs, targets = trace.data
    for start in range(0, trace.size, _ROWS_TOGETHER):
        rows = slice(start, start + _ROWS_TOGETHER)
        with torch.no_grad():
            outputs = Players(trace.game, theta, trace.state().held).outputs(trees.take(inputs, rows))
        least = _least_curvatures(trace.game.loss, outputs, trees.take(targets, rows))
        scale = torch.finfo(theta.dtype).eps ** 0.5
        if not least.min() >= -scale:
            k = int(least.argmin())
            raise ValueError(
                f"curvature='gauss_newton' needs a loss that is convex in the model's outputs, but at those of row "
                f"{start + k} its curvature is {least[k]:.3g}: take curvature='hessian', with damping where it is "
                "indefinite"
            )


def _least_curvatures(loss: losses.PairCost, outputs: Tensor, targets: Tensor) -> Float[Tensor, " rows"]:
    """The least eigenvalue of each row's ``d^2 loss / d outputs^2``."""
    at = outputs.detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(loss(at, targets).sum(), at, create_graph=True)
        flat = slope.reshape(len(at), -1)
        if not flat.requires_grad:  # the loss is linear
            return flat.new_zeros(len(at))
        columns = [
            torch.autograd.grad(one.sum(), at, retain_graph=True, materialize_grads=True)[0].reshape(flat.shape)
            for one in flat.unbind(1)
        ]
    return torch.linalg.eigvalsh(torch.stack(columns, dim=1).double())[:, 0]
