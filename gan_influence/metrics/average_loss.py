"""The average test loss of a one-player game."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from gan_influence.game import Players
from gan_influence.losses import check_targets
from gan_influence.metrics.inputs import check_rows
from gan_influence.metrics.metric import measure
from gan_influence.surroundings import undisturbed
from gan_influence.trace import Trace

__all__ = ["AverageLoss"]


class AverageLoss:
    """The game's own loss, averaged over test pairs: smaller is better, in the loss's units::

        E = (1/n) sum_i loss(f(psi, x'_i), y'_i)

    The quantity whose change SGD-influence (Hara et al. 2019) and influence functions (Koh and Liang 2017) estimate.

    Args:
        inputs: x', ``(n, *instance_shape)``, apart from those of training.
        targets: y', n of them, as the game's loss takes them.

    Raises:
        TypeError: inputs are no floating-point tensor, or targets no tensor.
        ValueError: inputs are empty or not finite, or there is not one target for each.
    """

    @undisturbed
    def __init__(self, inputs: Float[Tensor, "n *instance"], targets: Tensor):
        check_rows("inputs", inputs)
        if not isinstance(targets, Tensor):
            raise TypeError(f"targets must be a tensor, got {type(targets).__name__}")
        if targets.ndim == 0 or len(targets) != len(inputs):
            raise ValueError(
                f"there must be one target for each of the {len(inputs)} inputs, got shape {tuple(targets.shape)}"
            )
        if not targets.isfinite().all():
            raise ValueError("targets contains NaN or infinity")
        self.inputs = inputs.detach().clone()
        self.targets = targets.detach().clone()

    def __call__(self, trace: Trace) -> Float[Tensor, ""]:
        """The metric at the end of the run."""
        return measure(self, trace)

    def value(self, players: Players) -> Float[Tensor, ""]:
        """The metric of this model, differentiable.

        Raises:
            TypeError: the game has two players, or its model or loss takes another data type.
            ValueError: the loss takes no such targets (:func:`gan_influence.losses.check_targets`), or it does not give
                one cost a pair.
        """
        if not players.game.one_player:
            raise TypeError("AverageLoss measures one-player games, but this game has two players: use another metric")
        if players.psi.dtype != self.inputs.dtype:
            raise TypeError(
                f"the model's parameters are {players.psi.dtype}, but the metric's inputs are {self.inputs.dtype}: "
                "convert one of them"
            )
        check_targets(players.game.loss, self.targets)
        outputs = players.outputs(self.inputs)
        costs = players.game.loss(outputs, self.targets.to(outputs.device))
        if costs.shape != (len(self.inputs),):
            raise ValueError(
                f"the loss gave shape {tuple(costs.shape)} for {len(self.inputs)} pairs: it must give one cost a pair; "
                f"outputs are {tuple(outputs.shape)}, targets {tuple(self.targets.shape)}"
            )
        return costs.mean()
