"""What any player of any game pays, on rows and draws of its own."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gan_influence import trees
from gan_influence.batch import Inputs
from gan_influence.game import Game
from gan_influence.metrics.metric import MeasuredOnTraces
from gan_influence.players import Players
from gan_influence.surroundings import undisturbed
from gan_influence.trees import Tree

__all__ = ["PlayerLoss", "batch_of"]


class PlayerLoss(MeasuredOnTraces):
    """A player's cost, as the game has it, without l2: smaller is better, in the cost's units::

        E = (1/n) sum_i rows_p,i(x') + rest_p(x', z')

    Args:
        player: whose cost.
        rows: x', a tree of n test rows, as the game's data.
        latents, noise: as a batch of the game has them; drawn once.
        each: instead of the mean each row's own entry, ``(n,)``, without the rest.

    Raises:
        TypeError: there is no row.
    """

    larger_is_better = False

    @undisturbed
    def __init__(self, player: str, rows: Tree, latents: Tree = None, noise: Tree = None, each: bool = False):
        if not trees.leaves(rows):
            raise TypeError(f"rows must be a tree of tensors, got {rows!r}")
        self.player, self.each = player, each
        self.rows, self.latents, self.noise = trees.mapped(lambda leaf: leaf.detach().clone(), (rows, latents, noise))

    def value(self, players: Players) -> Float[Tensor, "*n"]:
        """The metric at these players, differentiable in all of them.

        Raises:
            ValueError: the game has no such player, or it pays nothing of what is asked for.
        """
        costs = players.game.costs(players, batch_of(players.game, self.rows, self.latents, self.noise))
        paid = [part for part in (costs.rows.get(self.player), costs.rest.get(self.player)) if part is not None]
        if not paid or (self.each and self.player not in costs.rows):
            paying = ", ".join(costs.rows if self.each else {**costs.rows, **costs.rest})
            raise ValueError(f"PlayerLoss is about {self.player!r}, but the cost has entries of {paying or 'nobody'}")
        if self.each:
            return costs.rows[self.player]
        return sum((part.mean() for part in paid), start=paid[0].new_zeros(()))


def batch_of(game: Game, rows: Tree, latents: Tree = None, noise: Tree = None) -> Inputs:
    """Rows and draws as a cost sees them, on the device of the game's modules, all of weight 1."""
    device = next((p.device for player in game.players.values() for p in player.module.parameters()), None)
    rows, latents, noise = trees.mapped(lambda leaf: leaf.to(device), (rows, latents, noise))
    weights = torch.ones(trees.length(rows), dtype=game.dtype, device=device)
    return Inputs(rows, latents, noise, weights, torch.zeros((), dtype=torch.float64, device=device))
