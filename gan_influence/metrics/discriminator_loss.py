"""The discriminator's expected loss on rows and latents of its own: a baseline that sees both players."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from gan_influence.gans import GAN
from gan_influence.metrics.inputs import check_generator, check_reference_and_latents, copied, generated
from gan_influence.metrics.metric import MeasuredOnTraces
from gan_influence.metrics.player_loss import batch_of
from gan_influence.players import Players
from gan_influence.surroundings import undisturbed
from gan_influence.trees import Tree

__all__ = ["DiscriminatorLoss"]


class DiscriminatorLoss(MeasuredOnTraces):
    """``L_D``, without regulariser and penalties, away from the training rows (ICLR 5.2), in the loss's units::

        E = (1/n) sum_i real(D(psi, x'_i)) + (1/K) sum_k fake(D(psi, G(phi, z'_k)))

    Smaller is better. A baseline: the loss measures the discriminator, so that a row's influence on it need not tell
    what the row does to the generator. Rows of negative score (their removal lowers the loss) are harmful ones, first:
    ``scores.argsort()[:n_h]``.

    Args:
        reference: real rows x', ``(n, *instance_shape)``, apart from those of training.
        latents: z', ``(K, *latent_shape)``, apart from those of training; or a tree of tensors, first dimension K.

    Raises:
        TypeError: reference or latents are not floating-point tensors of one data type.
        ValueError: one of them is empty or not finite.

    Example:
        >>> import torch
        >>> import gan_influence as gi
        >>> game = gi.Game(*gi.models.lqgan(quadratic=0.0, linear=0.0))  # every logit is 0
        >>> rows = torch.zeros(5, 1).double()
        >>> trace = gi.train(game, rows, gi.FullBatch(rows), 0, gi.SGD(0.1))
        >>> round(float(gi.metrics.DiscriminatorLoss(rows, rows)(trace)), 6)  # 2 log 2
        1.386294
    """

    larger_is_better = False

    @undisturbed
    def __init__(self, reference: Float[Tensor, "n *instance"], latents: Float[Tensor, "K *latent"] | Tree):
        self.dtype = check_reference_and_latents(reference, latents)
        self.reference = reference.detach().clone()
        self.latents = copied(latents)

    def value(self, players: Players) -> Float[Tensor, ""]:
        """The metric at these players, differentiable in both."""
        check_generator("DiscriminatorLoss", players, self.dtype)
        made = generated(players, self.latents)
        if made.shape[1:] != self.reference.shape[1:]:
            raise ValueError(
                f"the generator makes rows of shape {tuple(made.shape[1:])}, "
                f"but the metric's reference has rows of shape {tuple(self.reference.shape[1:])}"
            )
        game = players.game
        batch = batch_of(game, self.reference, self.latents)
        costs = (
            replace(game.cost, penalties=())(players, batch)
            if isinstance(game.cost, GAN)
            else game.costs(players, batch)
        )
        return costs.rows["discriminator"].mean() + costs.rest["discriminator"]
