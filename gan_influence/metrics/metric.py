"""What a metric is, and its value and gradient at a ``theta``."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from gan_influence.devices import is_out_of_memory, repeatable
from gan_influence.game import Game, Players
from gan_influence.randomness import draws
from gan_influence.surroundings import undisturbed

if TYPE_CHECKING:
    from gan_influence.trace import Trace

__all__ = ["Metric", "check_metric", "measure", "metric_gradients", "metric_value", "metric_values"]

_MODELS_AT_ONCE = 4


class Metric(Protocol):
    """A scalar measured at one ``theta``: any object with this method can be scored.

    With a method ``check(players)`` besides, it is asked once before it is measured; what it raises is passed on.

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


@undisturbed
def measure(metric: Metric, trace: Trace) -> Float[Tensor, ""]:
    """The metric at the end of a run.

    Raises:
        TypeError: the metric is no metric or not a scalar.
        ValueError: it is NaN or infinite.
    """
    if hasattr(metric, "check"):
        metric.check(trace.players())
    value = metric_value(metric, trace.game, trace.seen())
    if not value.isfinite():
        raise _not_finite(metric, f"is {float(value)}")
    return value


def metric_values(metric: Metric, game: Game, thetas: Float[Tensor, "models d"]) -> Float[Tensor, " models"]:
    """The metric at each ``theta``, a few models at a time: a metric may need far more memory than a training step.

    Where torch cannot batch the metric it is measured of one model after another, with a warning that gives the reason.

    Raises:
        TypeError: the metric is no metric or not a scalar.
    """

    def of_one(phi: Tensor, psi: Tensor) -> Float[Tensor, ""]:
        return _value(metric, Players(game, phi, psi))

    with torch.no_grad(), repeatable(thetas.device):
        values = None
        if game.stacks is not False and not any(metric is apart for apart in game.measured_apart):
            try:
                values = vmap(of_one, chunk_size=_MODELS_AT_ONCE)(*game.split(thetas))
            except (RuntimeError, NotImplementedError) as error:
                if is_out_of_memory(error):
                    raise
                game.measured_apart.append(metric)
                warnings.warn(
                    f"metric {type(metric).__name__} is measured of one model after another, which takes longer: "
                    + str(error).split("\n")[0],
                    RuntimeWarning,
                    stacklevel=2,
                )
        if values is None:
            values = torch.stack([of_one(*game.split(theta)) for theta in thetas])
    return values


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
        ValueError: its value or its slope is NaN or infinite.
    """
    with repeatable(thetas.device):
        return torch.stack([_gradient(metric, game, theta) for theta in thetas])


def check_metric(metric: Metric, game: Game, theta: Float[Tensor, " d"]) -> None:
    """Is the metric a number at these players, and the same at every call?

    Raises:
        ValueError: it is not.
    """

    def call() -> Tensor:
        return metric_value(metric, game, theta)

    if hasattr(metric, "check"):  # what it asks of the players besides
        metric.check(Players(game, *game.split(theta)))
    first = call()
    if not first.isfinite():
        raise _not_finite(metric, f"is {float(first)}")
    if not torch.equal(first, call()) or draws(call, theta.device):
        raise ValueError(
            f"metric {type(metric).__name__} gives something else for the same players at each call: it draws latents "
            "or noise afresh, or a network in it has dropout in train() mode. Draw once, when the metric is made, and "
            "put networks in eval() mode"
        )


def _not_finite(metric: Metric, what: str) -> ValueError:
    return ValueError(
        f"metric {type(metric).__name__} {what} at these players: look at logarithms, roots and divisions in it"
    )


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
    if not value.isfinite():
        raise _not_finite(metric, f"is {float(value)}")
    of_phi, of_psi = torch.autograd.grad(value, (phi, psi), allow_unused=True)
    if of_phi is None and game.generator.size:
        raise TypeError(f"metric {name} does not depend on the generator's parameters: it cannot rank rows by them")
    parts = ((of_phi, phi), (of_psi, psi))
    gradient = torch.cat([torch.zeros_like(leaf) if part is None else part for part, leaf in parts])
    bad = int((~gradient.isfinite()).sum())
    if bad:
        raise _not_finite(metric, f"has a slope that is NaN or infinite in {bad} of {len(gradient)} parameters")
    return gradient
