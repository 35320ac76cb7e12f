"""The usual games, as costs: a GAN of two players, and supervised training of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from gan_influence import losses, penalties, trees
from gan_influence.batch import Inputs
from gan_influence.costs import Costs, mean
from gan_influence.players import Players, logits

__all__ = ["GAN", "Supervised", "short_form"]


@dataclass(frozen=True)
class GAN:
    """Two players, ``generator`` and ``discriminator``, and a loss of logits (TNNLS eq. 1-2, ICLR eq. 1-2).

    ``L_D = mean_i w_i real(D(x_i)) + mean_z fake(D(G(z)))`` and ``L_G = mean_z generator(D(G(z)))``, which share the
    pass of the generated rows, and penalties besides. The discriminator looks at rows where it moves.
    """

    loss: losses.Loss
    penalties: tuple[penalties.Penalty, ...] = ()
    sees_rows = "discriminator"

    def __call__(self, players: Players, batch: Inputs) -> Costs:
        rows, rest = {}, {}
        discriminates = "discriminator" in players.moving
        if discriminates:
            rows["discriminator"] = self.loss.real(_discriminated(players, batch.rows))
        generated = players.generator(batch.latents)
        of_generated = _discriminated(players, generated)
        if "generator" in players.moving:
            rest["generator"] = mean(self.loss.generator(of_generated))
        if discriminates:
            rest["discriminator"] = mean(self.loss.fake(of_generated))
        if not self.penalties:
            return Costs(rows, rest)
        return penalties.added(Costs(rows, rest), self.penalties, players, batch, generated)


@dataclass(frozen=True)
class Supervised:
    """One player, ``model``, trained on rows ``(inputs, targets)`` with ``mean_i w_i loss(f(x_i), y_i)``.

    Inputs that are a tuple are as many arguments of the model.
    """

    loss: losses.PairCost
    sees_rows = "model"

    def __call__(self, players: Players, batch: Inputs) -> Costs:
        inputs, targets = batch.rows
        outputs = players.model(*inputs) if isinstance(inputs, tuple) else players.model(inputs)
        return Costs({"model": self.loss(outputs, targets)})


def short_form(
    generator: nn.Module | None, discriminator: nn.Module, loss: Any, penalised: Sequence[Any]
) -> tuple[dict[str, nn.Module], GAN | Supervised]:
    """The players and the cost of ``Game(generator, discriminator, loss)``, or of ``Game(None, model, loss)``.

    Raises:
        TypeError, ValueError: the loss is unknown or lacks a cost; a penalty is none, or given to one player.
    """
    if generator is None:
        if penalised:
            raise ValueError(
                "penalties= are a GAN's; in a one-player game add them in a cost of your own: Game(players=, cost=)"
            )
        return {"model": discriminator}, Supervised(losses.resolve_one_player(loss))
    return {"generator": generator, "discriminator": discriminator}, GAN(
        losses.resolve(loss), penalties.checked(penalised)
    )


def _discriminated(players: Players, rows: Any) -> Float[Tensor, " rows"]:
    return logits(players.discriminator(rows), trees.length(rows))
