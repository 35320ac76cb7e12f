"""The average test loss of a one-player game."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from gan_influence.devices import is_out_of_memory
from gan_influence.graphs import is_transformed
from gan_influence.losses import check_targets
from gan_influence.metrics.inputs import check_rows
from gan_influence.metrics.metric import MeasuredOnTraces
from gan_influence.metrics.player_loss import batch_of
from gan_influence.players import Players
from gan_influence.surroundings import undisturbed

__all__ = ["AverageLoss"]


class AverageLoss(MeasuredOnTraces):
    """The game's own loss, averaged over test pairs: smaller is better, in the loss's units::

        E = (1/n) sum_i loss(f(psi, x'_i), y'_i)

    The quantity whose change SGD-influence (Hara et al. 2019) and influence functions (Koh and Liang 2017) estimate.

    Args:
        inputs: x', ``(n, *instance_shape)``, apart from those of training.
        targets: y', n of them, as the game's loss takes them.
        each: instead of the average each pair's own loss, ``(n,)``: its scores, ``(n, N)``, tell which rows matter to
            which test point, in one sweep.

    Raises:
        TypeError: inputs are no floating-point tensor, or targets no tensor.
        ValueError: inputs are empty or not finite, or there is not one target for each.
    """

    larger_is_better = False

    @undisturbed
    def __init__(self, inputs: Float[Tensor, "n *instance"], targets: Tensor, each: bool = False):
        check_rows("inputs", inputs)
        if not isinstance(targets, Tensor):
            raise TypeError(f"targets must be a tensor, got {type(targets).__name__}")
        if targets.ndim == 0 or len(targets) != len(inputs):
            raise ValueError(
                f"there must be one target for each of the {len(inputs)} inputs, got shape {tuple(targets.shape)}"
            )
        if not targets.isfinite().all():
            raise ValueError("targets contains NaN or infinity")
        self.each = each
        self.inputs = inputs.detach().clone()
        self.targets = targets.detach().clone()

    def value(self, players: Players) -> Float[Tensor, "*n"]:
        """The metric of this model, differentiable.

        Raises:
            TypeError: the game has two players, or its model or loss takes another data type.
            ValueError: the loss takes no such targets (:func:`gan_influence.losses.check_targets`), it does not give
                one cost a pair, or the model takes no such inputs.
        """
        if "model" not in players.parameters:
            raise TypeError("AverageLoss measures one-player games, but this game has two players: use another metric")
        game, dtype = players.game, players.parameters["model"].dtype
        if dtype != self.inputs.dtype:
            raise TypeError(
                f"the model's parameters are {dtype}, but the metric's inputs are {self.inputs.dtype}: "
                "convert one of them"
            )
        check_targets(game.loss, self.targets)
        try:
            costs = game.costs(players, batch_of(game, (self.inputs, self.targets))).rows["model"]
        except (IndexError, RuntimeError) as error:
            if is_out_of_memory(error) or (is_transformed(players.parameters["model"]) and type(error) is RuntimeError):
                raise  # of what torch cannot batch the caller takes one model after another
            raise ValueError(
                f"the loss of the test points, inputs {tuple(self.inputs.shape)} and targets "
                f"{tuple(self.targets.shape)}, cannot be computed ({error}): each must be of the shape of a training "
                "row, and its target one that the model has an output for"
            ) from error
        if costs.shape != (len(self.inputs),):
            raise ValueError(
                f"the loss gave shape {tuple(costs.shape)} for {len(self.inputs)} pairs: it must give one cost a pair; "
                f"targets are {tuple(self.targets.shape)}"
            )
        return costs if self.each else costs.mean()
