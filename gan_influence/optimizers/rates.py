"""Learning rates: numbers, and functions of the number of the update."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from gan_influence.checks import check_positive, check_whole
from gan_influence.optimizers.protocol import LearningRate, Optimizer

__all__ = ["InverseSqrt", "TorchRates", "check_rate", "rate_at", "rates_of"]


@dataclass(frozen=True)
class InverseSqrt:
    """The learning rate ``lr / sqrt(t)`` of update t = 1, 2, ..., for ``SGD(lr=InverseSqrt(0.1))`` and the others.

    Raises:
        ValueError: ``lr`` is not a finite number above 0.
    """

    lr: float

    def __post_init__(self) -> None:
        check_positive("lr", self.lr)

    def __call__(self, step: Float[Tensor, ""]) -> Float[Tensor, ""]:
        return self.lr / (step + 1).sqrt()


class TorchRates:
    """The learning rates that a scheduler of ``torch.optim.lr_scheduler`` sets, as a table.

    For ``Adam(lr=TorchRates(lambda optimizer: StepLR(optimizer, 30), lr=0.1, steps=500))`` and the others; the
    scheduler is stepped after each of the optimiser's own updates.

    Args:
        make: the scheduler of an optimiser that is given, one of ``torch.optim`` with this ``lr``.
        lr: the optimiser's own rate, which the scheduler starts from.
        steps: for how many updates the table is made. One beyond it has no rate: reading it raises ``IndexError``.

    Attributes:
        steps: see above.
        table: the rates of updates 0, ..., steps - 1.

    Raises:
        TypeError: ``make`` is no function, or makes no scheduler.
        ValueError: ``lr`` is not a finite number above 0, or ``steps`` not a whole one; the scheduler belongs to
            another optimiser, must be told a metric, sets more than the rate, or a rate that is negative or no number.
    """

    def __init__(self, make: Callable[[torch.optim.Optimizer], LRScheduler], lr: float, steps: int):
        check_positive("lr", lr)
        check_whole("steps", steps)
        if not callable(make):
            raise TypeError(
                "make must be a function of an optimiser that returns its scheduler, such as "
                f"lambda optimizer: StepLR(optimizer, 30), got {make!r}"
            )
        self.lr, self.steps = float(lr), int(steps)
        self.table: Float[Tensor, " steps"] = torch.tensor(_rates(make, self.lr, self.steps), dtype=torch.float64)

    def __repr__(self) -> str:
        return f"TorchRates(lr={self.lr!r}, steps={self.steps!r}, table={self.table[0]:.3g} ... {self.table[-1]:.3g})"

    def __call__(self, step: Float[Tensor, ""]) -> Float[Tensor, ""]:
        # table[step] would read the number in Python, which neither vmap nor a recording can.
        return self.table.to(step.device).index_select(0, step.long().reshape(1)).reshape(())


def _rates(make: Callable[[torch.optim.Optimizer], LRScheduler], lr: float, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    (group,) = optimizer.param_groups
    settings = {name: value for name, value in group.items() if name not in ("params", "lr")}
    scheduler = make(optimizer)
    _check_scheduler(scheduler, optimizer)
    optimizer.step()  # without a gradient: torch warns where a scheduler is stepped before its optimiser
    rates: list[float] = []
    for k in range(steps):
        if k:
            scheduler.step()
        rates.append(float(group["lr"]))
        changed = [name for name, value in settings.items() if group[name] != value]
        if changed:
            raise ValueError(
                f"make's {_kind(scheduler)} sets {changed[0]} too, to {group[changed[0]]!r} at update {k}, "
                "and only the learning rate can be a function of the update; CyclicLR and OneCycleLR do not with "
                "cycle_momentum=False"
            )
        if not (math.isfinite(rates[-1]) and rates[-1] >= 0):
            raise ValueError(f"make's {_kind(scheduler)} sets a learning rate of {rates[-1]} at update {k}")
    return rates


def _check_scheduler(scheduler: Any, optimizer: torch.optim.Optimizer) -> None:
    if not isinstance(scheduler, LRScheduler):
        raise TypeError(
            f"make must return a scheduler of torch.optim.lr_scheduler, got {_kind(scheduler)}: "
            "lambda optimizer: StepLR(optimizer, 30) does"
        )
    needed = [
        name
        for name, given in inspect.signature(scheduler.step).parameters.items()
        if given.default is given.empty and given.kind not in (given.VAR_POSITIONAL, given.VAR_KEYWORD)
    ]
    if needed:
        raise ValueError(
            f"make's {_kind(scheduler)} must be told {needed[0]} at every step, which a removed row changes: its rates "
            "are no function of the update's number. Read off the rates that it set in a run, and give these, such as "
            "lr=lambda k: torch.where(k < 300, 0.1, 0.01)"
        )
    if scheduler.optimizer is not optimizer:
        raise ValueError(
            f"make's {_kind(scheduler)} belongs to another optimiser than the one that make was given: "
            "lambda optimizer: StepLR(optimizer, 30) makes one of that"
        )


def _kind(thing: object) -> str:
    return type(thing).__name__


def rate_at(lr: float | Tensor | LearningRate, step: Tensor) -> float | Tensor:
    """The learning rate of update ``step``."""
    return lr(step) if callable(lr) else lr


def rates_of(optimizer: Optimizer, step: Float[Tensor, ""]) -> float | Float[Tensor, " d"]:
    """The learning rate of an optimiser's update number ``step``, or one a parameter."""
    rate = rate_at(optimizer.lr, step)
    return rate if isinstance(rate, Tensor) and rate.ndim else float(rate)


def check_rate(lr: object) -> None:
    """Is this a number to take for a rate, or a function?"""
    if isinstance(lr, LRScheduler):
        raise ValueError(
            "lr must be a finite number above 0, or a function of the update's number 0, 1, ..., made of torch "
            f"operations, such as lambda k: 0.1 * 0.99**k; got a {type(lr).__name__}, bound to an optimiser of "
            "torch's: TorchRates makes a table of its rates"
        )
    if not callable(lr):
        check_positive("lr", lr)
