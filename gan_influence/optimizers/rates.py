"""Learning rates: numbers, and functions of the number of the update."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from gan_influence.optimizers.checks import check_positive
from gan_influence.optimizers.protocol import LearningRate, Optimizer

__all__ = ["InverseSqrt", "check_rate", "rate_at", "rates_of"]


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
            f"operations, such as lambda k: 0.1 * 0.99**k; got a {type(lr).__name__}, bound to an optimiser of torch's"
        )
    if not callable(lr):
        check_positive("lr", lr)
