r"""One step of the reverse sweep. ITD and AID are loops around it.

A step of training is ``g = v_w(theta)``, ``state' = update(state, g)``. Given the cotangent of ``state'``:

1. pull it back through the (elementwise) update, which gives a direct part and the cotangent ``c`` of ``g``;
2. differentiate the scalar ``s(theta, w) = <c, v_w(theta)>`` once, in both arguments::

       grad_theta s = J(theta)^T c            grad_w s = the per-row terms of the whole batch, for nothing extra

For plain gradient descent ``c = -eta u`` and the new cotangent is ``u - eta J^T u = Z^T u`` (TNNLS Alg. 1, line 4).
No Jacobian and no per-row gradient is formed; recorded sweeps over remembered states leave out ``v_w`` itself too.
Where the players move one after the other, a step is two such phases, each at the state that it saw.

The derivative is taken as reverse over reverse, recorded. Times of a step on FCGAN relative to it (one thread,
``python -m bench.adjoint_variants``): unrecorded 1.8; reverse over forward, with dual numbers or ``torch.func.jvp``,
1.9 to 2.0, since its fewer matrix products come with many more small operations; one discriminator pass for real and
fake rows and one cotangent for both players 0.9 to 1.0; ``torch.compile`` 0.56 (on LQGAN 0.17), but that needs a C++
compiler and fuses operations, which gives other bits than the eager step.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from gan_influence.batch import Inputs
from gan_influence.game import Game
from gan_influence.players import Players
from gan_influence.replay.recorded import PullBack, RecordedLinearisation
from gan_influence.state import Held, State
from gan_influence.updates import Phase, Updates

__all__ = ["FieldGraph", "Linearised", "linearise", "row_terms"]


class FieldGraph:
    """``v_w`` at one ``theta`` with its graph, or at a stack of independent ones, ready for products with ``J^T``.

    Args:
        game: whose field.
        theta: ``(d,)`` or ``(models, d)``.
        batch: with weights ``(batch,)`` or ``(models, batch)``, to match.
        held: the buffers that calls change, before them; by default those of the modules.
        moving: the players that move; the field is 0 for the others. By default all.

    Attributes:
        parts: each player's gradient of its own cost.
        held: the buffers, after the calls.
    """

    def __init__(
        self,
        game: Game,
        theta: Float[Tensor, "*models d"],
        batch: Inputs,
        held: Held | None = None,
        moving: frozenset[str] | None = None,
    ):
        self.game, self.leaves = game, game.leaves(theta)
        self.weights = batch.weights.detach().requires_grad_()
        batch = batch._replace(weights=self.weights)
        self.parts, self.held = game.field(self.leaves, batch, held, moving, create_graph=True)

    @property
    def value(self) -> Float[Tensor, "*models d"]:
        """``v_w(theta)``, without its graph."""
        return torch.cat(self.parts, dim=-1).detach()

    def transpose_product(self, cotangent: Float[Tensor, "*models d"]) -> Float[Tensor, "*models d"]:
        """``J(theta)^T c``. The graph stays, ready for the next product."""
        return torch.cat(self._differentiate(self.leaves, cotangent, retain_graph=True), dim=-1)

    def row_terms(self, cotangent: Float[Tensor, "*models d"]) -> Float[Tensor, "*models batch"]:
        """``d<c, v_w> / dw_i`` for every row i of the batch. The graph stays."""
        return self._differentiate((self.weights,), cotangent, retain_graph=True)[0]

    def both(
        self, cotangent: Float[Tensor, "*stops d"]
    ) -> tuple[Float[Tensor, "*stops d"], Float[Tensor, "*stops batch"]]:
        """``J^T c`` and the row terms in one pass, which frees the graph; several cotangents may share it."""
        *of_theta, rows = self._differentiate((*self.leaves, self.weights), cotangent, retain_graph=False)
        return torch.cat(of_theta, dim=-1), rows

    def _differentiate(self, inputs: tuple[Tensor, ...], cotangent: Tensor, retain_graph: bool) -> tuple[Tensor, ...]:
        moving = [k for k, part in enumerate(self.parts) if part.requires_grad]
        parts = [self.parts[k] for k in moving]

        several = cotangent.ndim > self.leaves[0].ndim
        retain_graph = retain_graph or (several and self.game.stacks is False)  # then one pass follows another

        def product(cotangent: Tensor) -> tuple[Tensor, ...]:
            cotangents = [self.game.split(cotangent)[k] for k in moving]
            found = torch.autograd.grad(parts, inputs, cotangents, retain_graph=retain_graph, allow_unused=True)
            return tuple(torch.zeros_like(of) if one is None else one for one, of in zip(found, inputs, strict=True))

        if not parts:  # the one player that moves has no parameters
            return self._zeros(inputs, cotangent)
        return self.game.stacked(product)(cotangent) if several else product(cotangent)

    @staticmethod
    def _zeros(inputs: tuple[Tensor, ...], cotangent: Tensor) -> tuple[Tensor, ...]:
        return tuple(one.new_zeros(*cotangent.shape[:-1], one.shape[-1]) for one in inputs)


def row_terms(
    game: Game,
    theta: Float[Tensor, "*models d"],
    cotangents: Sequence[Float[Tensor, "*several *models d"]],
    batch: Inputs,
    denominator: int,
    held: Held | None = None,
) -> list[Float[Tensor, "*models rows"]]:
    """``sum_p <c_p, grad_p rows_p,i> / denominator`` of the batch's rows i, for each cotangent ``c``.

    This is :meth:`FieldGraph.row_terms` of a batch of ``denominator`` rows, a part of it at a time and without what no
    row's weight multiplies: the rest, and L2 that stays. The field is linear in the weights, so that ones do.
    """
    leaves = game.leaves(theta)
    held = game.held() if held is None else held

    def costs_of(parts: tuple[Tensor, ...], held: Held) -> dict[str, Tensor]:
        return dict(game.trained(Players(game, parts, held), batch).rows)

    with torch.enable_grad():
        called = game.stacked(costs_of, (0, 0)) if leaves[0].ndim > 1 else costs_of
        costs = called(leaves, held)
        weights = torch.ones_like(next(iter(costs.values())), requires_grad=True)
        paying = [k for k, name in enumerate(game.players) if name in costs and leaves[k].numel()]
        names = list(game.players)
        slopes = [
            torch.autograd.grad(
                (weights * costs[names[k]]).sum() / denominator, leaves[k], create_graph=True, materialize_grads=True
            )[0]
            for k in paying
        ]

    def terms(cotangent: Tensor) -> Float[Tensor, "*models rows"]:
        of_paying = [game.split(cotangent)[k] for k in paying]
        return torch.autograd.grad(slopes, weights, of_paying, retain_graph=True, materialize_grads=True)[0]

    return [game.stacked(terms)(c) if c.ndim > theta.ndim else terms(c) for c in cotangents]


def linearise(
    game: Game, updates: Updates, phases: tuple[Phase, ...], damping: float, state: State, batch: Inputs
) -> tuple[State, PullBack]:
    """One step of training, and its pull-back: the state after the step, and a function, to be called once.

    The function carries the cotangent of that state's moving part, ``(*stops, rows, d)``, to the state before it, and
    gives ``d<cotangent, state'> / dw_i`` for each row of the batch, ``(*stops, batch)``. Several cotangents share the
    pass through the game. Damping replaces ``J`` by ``J + gamma I`` (TNNLS IV-C4).
    """
    passed = []
    moving, held = state
    for phase in phases:
        field = FieldGraph(game, moving[0], batch, held, phase.moving)
        passed.append((phase, moving, field))
        moving = updates(phase, batch.time, moving, field.value)
        held = updates.held_after(phase, batch.time, field.held)
    return State(moving, held), partial(_pull_back, updates, damping, batch.time, passed)


def _pull_back(
    updates: Updates,
    damping: float,
    time: Tensor,
    passed: list[tuple[Phase, Tensor, FieldGraph]],
    cotangent: Float[Tensor, "*stops rows d"],
) -> tuple[Tensor, Tensor]:
    terms = None
    for phase, moving, field in reversed(passed):
        before, c = updates.pull_back(phase, time, moving, field.value, cotangent)
        product, of_rows = field.both(c)
        if damping:
            product = product + damping * c
        padded = torch.cat([product.unsqueeze(-2), torch.zeros_like(before[..., 1:, :])], dim=-2)
        cotangent = before + padded
        terms = of_rows if terms is None else terms + of_rows
    assert terms is not None
    return cotangent, terms


class Linearised:
    """:func:`linearise` at any step of a run, recorded where steps repeat."""

    def __init__(self, game: Game, updates: Updates, damping: float):
        self._game, self._updates, self._damping = game, updates, damping
        self._recorded: dict[tuple[Phase, ...], RecordedLinearisation] = {}

    def __call__(self, t: int, state: State, batch: Inputs, cotangent_shape: torch.Size) -> tuple[State, PullBack]:
        """The state after step ``t``, and its pull-back, for a cotangent of this shape."""
        return self._of_step(t)(state, batch.in_step, cotangent_shape=cotangent_shape)

    def pull_back(self, t: int, state: State, batch: Inputs, cotangent_shape: torch.Size) -> PullBack:
        """The pull-back of step ``t`` alone."""
        return self._of_step(t).pull_back(state, batch.in_step, cotangent_shape=cotangent_shape)

    def _of_step(self, t: int) -> RecordedLinearisation:
        phases = self._updates.phases(t)
        if phases not in self._recorded:
            self._recorded[phases] = RecordedLinearisation(
                partial(linearise, self._game, self._updates, phases, self._damping)
            )
        return self._recorded[phases]
