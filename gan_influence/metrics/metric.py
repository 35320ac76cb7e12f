"""What a metric is, and its value and gradient at a ``theta``."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from gan_influence.devices import repeatable
from gan_influence.game import Game, Players

__all__ = ["Metric", "metric_gradients", "metric_value", "metric_values"]

_MODELS_AT_ONCE = 4


class Metric(Protocol):
    """A scalar measured at one ``theta``: any object with this method can be scored.

    Example:
        >>> class MeanOfGenerated:
        ...     def __init__(self, latents):
        ...         self.latents = latents
        ...     def value(self, players):
        ...         return players.generate(self.latents).mean()
    """

    def value(self, players: Players) -> Float[Tensor, ""]:
        """The metric, differentiable in the parameters behind ``players``. It is called under ``torch.func.vmap``."""
        ...


def metric_values(metric: Metric, game: Game, thetas: Float[Tensor, "models d"]) -> Float[Tensor, " models"]:
    """The metric at each ``theta``, a few models at a time: a metric may need far more memory than a training step.

    Raises:
        TypeError: the metric is no metric or not a scalar.
    """
    with torch.no_grad(), repeatable(thetas.device):
        one_model = vmap(lambda phi, psi: _value(metric, Players(game, phi, psi)), chunk_size=_MODELS_AT_ONCE)
        return one_model(*game.split(thetas))


def metric_value(metric: Metric, game: Game, theta: Float[Tensor, " d"]) -> Float[Tensor, ""]:
    """The metric at one ``theta``.

    Raises:
        TypeError: the metric is no metric or not a scalar.
    """
    with torch.no_grad(), repeatable(theta.device):
        return _value(metric, Players(game, *game.split(theta)))


def metric_gradients(metric: Metric, game: Game, thetas: Float[Tensor, "models d"]) -> Float[Tensor, "models d"]:
    """``grad E`` at each ``theta`` (TNNLS eq. 15), zero where the metric does not look.

    Raises:
        TypeError: the metric is no metric, not a scalar, not differentiable, or does not depend on the generator.
    """
    with repeatable(thetas.device):
        return torch.stack([_gradient(metric, game, theta) for theta in thetas])


def _value(metric: Metric, players: Players) -> Float[Tensor, ""]:
    if not callable(getattr(metric, "value", None)):
        raise TypeError(f"{metric!r} is no metric: it needs a method value(players) -> scalar tensor")
    value = metric.value(players)
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"metric {type(metric).__name__} must return a scalar tensor, got {got}")
    return value.reshape(())


def _gradient(metric: Metric, game: Game, theta: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    phi, psi = game.leaves(theta)
    with torch.enable_grad():
        value = _value(metric, Players(game, phi, psi))
    name = type(metric).__name__
    if not value.requires_grad:
        raise TypeError(
            f"metric {name} is not differentiable, or depends on neither player: its value carries no gradient. "
            "Compute it with torch operations on players.generate(latents), without detach(), item() or argmax()"
        )
    of_phi, of_psi = torch.autograd.grad(value, (phi, psi), allow_unused=True)
    if of_phi is None and game.generator.size:
        raise TypeError(f"metric {name} does not depend on the generator's parameters: it cannot rank rows by them")
    parts = ((of_phi, phi), (of_psi, psi))
    return torch.cat([torch.zeros_like(leaf) if part is None else part for part, leaf in parts])
