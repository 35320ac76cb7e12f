"""What a metric is, and its value and gradient at a state of the players."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from gan_influence import trees
from gan_influence.devices import is_out_of_memory, repeatable
from gan_influence.game import Game
from gan_influence.players import Players
from gan_influence.randomness import draws
from gan_influence.state import Held, expanded
from gan_influence.surroundings import undisturbed, warn

if TYPE_CHECKING:
    from gan_influence.trace import Trace

__all__ = [
    "Measurable",
    "MeasuredOnTraces",
    "Metric",
    "as_metrics",
    "check_metric",
    "measure",
    "metric_gradients",
    "metric_value",
    "metric_values",
]

_MODELS_AT_ONCE = 4


class Metric(Protocol):
    """A number measured at one state of the players, or several, ``(k,)``: any object with this method can be scored.

    So can a plain function of the players. With a method ``check(players)`` besides, it is asked once before it is
    measured; what it raises is passed on. With an attribute ``larger_is_better`` it says in which direction rows are
    harmful: see :func:`gan_influence.harmfulness`. Modules are seen as after ``.eval()``; a metric with an attribute
    ``mode = "train"`` sees them as they are trained, where BatchNorm takes the statistics of the metric's own batch.

    Example:
        >>> class MeanOfGenerated:
        ...     def __init__(self, latents):
        ...         self.latents = latents
        ...     def value(self, players):
        ...         return players.generate(self.latents).mean()
    """

    def value(self, players: Players) -> Float[Tensor, "*k"]:
        """The metric, differentiable in the parameters behind ``players``. It is called under ``torch.func.vmap``."""


Measurable: TypeAlias = Metric | Callable[[Players], Float[Tensor, "*k"]]


class MeasuredOnTraces:
    """What makes ``metric(trace)`` of a metric with ``value``."""

    def __call__(self, trace: Trace) -> Float[Tensor, "*k"]:
        """The metric at the end of the run."""
        return measure(self, trace)  # type: ignore[arg-type]


@undisturbed
def measure(metric: Measurable, trace: Trace) -> Float[Tensor, "*k"]:
    """The metric at the end of a run.

    Raises:
        TypeError: the metric is no metric, or neither a scalar nor a vector.
        ValueError: it is NaN or infinite.
    """
    _ask(metric, trace.players())
    value = metric_value(metric, trace.game, trace.seen(), trace.held())
    if not value.isfinite().all():
        raise _not_finite(metric, f"is {_first_bad(value)}")
    return value


def as_metrics(metric: Measurable | Sequence[Measurable]) -> list[Measurable]:
    """One metric, or several, as a list.

    Raises:
        ValueError: there is none.
    """
    metrics: list[Any] = list(metric) if isinstance(metric, list | tuple) else [metric]
    if not metrics:
        raise ValueError("give a metric, or several, got an empty list")
    return metrics


def metric_values(
    metric: Measurable, game: Game, thetas: Float[Tensor, "models d"], held: Held | None = None
) -> Float[Tensor, "models *k"]:
    """The metric at each ``theta``, a few models at a time: a metric may need far more memory than a training step.

    Where torch cannot batch the metric it is measured of one model after another, with a warning that gives the reason.

    Args:
        metric: what is measured.
        game, thetas: whose players, at which parameters.
        held: the buffers of each model that calls change, with a leading dimension; by default those of the modules.

    Raises:
        TypeError: the metric is no metric, or neither a scalar nor a vector.
    """
    if held is None:
        held = expanded(game.held(), [len(thetas)])

    def of_one(theta: Tensor, held: Held) -> Float[Tensor, "*k"]:
        return _value(metric, game, theta, held)

    with torch.no_grad(), repeatable(thetas.device):
        values = None
        if game.stacks is not False and not any(metric is apart for apart in game.measured_apart):
            try:
                values = torch.cat(
                    [
                        game.stacked(of_one, (0, 0))(*trees.take((thetas, held), slice(k, k + _MODELS_AT_ONCE)))
                        for k in range(0, len(thetas), _MODELS_AT_ONCE)
                    ]
                )
            except (RuntimeError, NotImplementedError) as error:
                if is_out_of_memory(error):
                    raise
                game.measured_apart.append(metric)
                warn(
                    f"metric {_name(metric)} is measured of one model after another, which takes longer: "
                    + str(error).split("\n")[0]
                )
        if values is None:
            values = torch.stack([of_one(theta, trees.take(held, k)) for k, theta in enumerate(thetas)])
    return values


def metric_value(
    metric: Measurable, game: Game, theta: Float[Tensor, " d"], held: Held | None = None
) -> Float[Tensor, "*k"]:
    """The metric at one ``theta``.

    Raises:
        TypeError: the metric is no metric, or neither a scalar nor a vector.
    """
    with torch.no_grad(), repeatable(theta.device):
        return _value(metric, game, theta, held)


def metric_gradients(
    metric: Measurable, game: Game, thetas: Float[Tensor, "models d"], held: Sequence[Held] | None = None
) -> Float[Tensor, "*k models d"]:
    """``grad E`` at each ``theta`` (TNNLS eq. 15), zero where the metric does not look.

    Args:
        metric, game, thetas: as for :func:`metric_values`.
        held: the buffers of each model.

    Raises:
        TypeError: the metric is no metric, neither a scalar nor a vector, not differentiable.
        ValueError: its value or its slope is NaN or infinite.
    """
    of_models = [None] * len(thetas) if held is None else held
    with repeatable(thetas.device):
        found = [_gradient(metric, game, theta, own) for theta, own in zip(thetas, of_models, strict=True)]
    return torch.stack(found, dim=-2)


def check_metric(metric: Measurable, game: Game, theta: Float[Tensor, " d"], held: Held | None = None) -> None:
    """Is the metric a number at these players, and the same at every call?

    Raises:
        ValueError: it is not.
    """

    def call() -> Tensor:
        return metric_value(metric, game, theta, held)

    _ask(metric, Players(game, theta, held, mode=_mode(metric)))
    first = call()
    if not first.isfinite().all():
        raise _not_finite(metric, f"is {_first_bad(first)}")
    if not torch.equal(first, call()) or draws(call, theta.device):
        raise ValueError(
            f"metric {_name(metric)} gives something else for the same players at each call: it draws latents "
            "or noise afresh, or a network in it has dropout in train() mode. Draw once, when the metric is made, and "
            "put networks in eval() mode"
        )


def _ask(metric: Any, players: Players) -> None:
    """What a metric asks of the players besides."""
    if hasattr(metric, "check"):
        metric.check(players)


def _mode(metric: Any) -> str:
    mode = getattr(metric, "mode", "eval")
    if mode not in ("eval", "train"):
        raise ValueError(f'metric {_name(metric)} has mode {mode!r}: "eval" or "train"')
    return mode


def _name(metric: Any) -> str:
    return getattr(metric, "__name__", type(metric).__name__)


def _not_finite(metric: Any, what: str) -> ValueError:
    return ValueError(f"metric {_name(metric)} {what} at these players: look at logarithms, roots and divisions in it")


def _first_bad(value: Tensor) -> float:
    return float(value.reshape(-1)[(~value.isfinite()).reshape(-1)][0])


def _value(metric: Any, game: Game, theta: Any, held: Held | None) -> Float[Tensor, "*k"]:
    measured = getattr(metric, "value", metric)
    if not callable(measured):
        raise TypeError(f"{metric!r} is no metric: it needs a method value(players) -> scalar tensor")
    value = measured(Players(game, theta, held, mode=_mode(metric)))
    if not isinstance(value, Tensor) or (value.numel() != 1 and (value.ndim != 1 or not value.numel())):
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"metric {_name(metric)} must return a scalar tensor, got {got}: one number, or (k,)")
    return value if value.ndim == 1 and len(value) > 1 else value.reshape(())


def _gradient(metric: Measurable, game: Game, theta: Float[Tensor, " d"], held: Held | None) -> Float[Tensor, "*k d"]:
    leaves = game.leaves(theta)
    with torch.enable_grad():
        value = _value(metric, game, leaves, held)
    if not value.requires_grad:
        raise TypeError(
            f"metric {_name(metric)} is not differentiable, or depends on no player: its value carries no gradient. "
            "Compute it with torch operations on players.generate(latents), without detach(), item() or argmax()"
        )
    if not value.isfinite().all():
        raise _not_finite(metric, f"is {_first_bad(value)}")
    gradient = torch.cat(_slopes(value, leaves), dim=-1)
    bad = int((~gradient.isfinite()).sum())
    if bad:
        raise _not_finite(metric, f"has a slope that is NaN or infinite in {bad} of {gradient.numel()} parameters")
    return gradient


def _slopes(value: Float[Tensor, "*k"], leaves: tuple[Tensor, ...]) -> tuple[Float[Tensor, "*k d"], ...]:
    """Of a vector all in one pass, where torch has a rule for it."""
    if value.ndim == 0:
        return torch.autograd.grad(value, leaves, materialize_grads=True)
    units = torch.eye(len(value)).to(value)
    try:
        found = torch.autograd.grad(value, leaves, units, is_grads_batched=True, retain_graph=True, allow_unused=True)
        unused = [leaf.new_zeros(len(value), len(leaf)) for leaf in leaves]
        return tuple(zeros if one is None else one for one, zeros in zip(found, unused, strict=True))
    except (RuntimeError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise
    of_each = [torch.autograd.grad(value, leaves, unit, retain_graph=True, materialize_grads=True) for unit in units]
    return tuple(torch.stack(parts) for parts in zip(*of_each, strict=True))
