"""What training needs of an optimiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["LearningRate", "Optimizer", "check_optimizer", "fitted"]

LearningRate = Callable[[Float[Tensor, ""]], Float[Tensor, ""]]


@runtime_checkable
class Optimizer(Protocol):
    """What training needs of an optimiser.

    It is called once for each player that moves, with that player's part of the state, also where one object serves
    both: one that looks at more than one parameter at a time, as clipping by norm does, then sees one player. One that
    treats every parameter by itself may say so with an attribute ``elementwise = True``; both players, where they move
    at once, are then one call. Where ``update`` shrinks the parameters by a rate besides following the gradient, an
    attribute ``weight_decay`` tells AID that rate, which belongs to J. One that treats parameters by their names has a
    method ``fitted(names, shapes) -> Optimizer``, called once when a run begins, with the player's parameters in the
    order in which the state holds them.
    """

    @property
    def buffers(self) -> int:
        """How many vectors it remembers, each as long as the parameters; they start at zero."""

    @property
    def lr(self) -> float | Tensor | LearningRate:
        """The learning rate, or its schedule: AID's default scaling coefficient eta (TNNLS eq. 11).

        Of an optimiser with several rates it is, or returns, a tensor ``(d,)``.
        """

    def update(
        self, step: Float[Tensor, ""], state: Float[Tensor, "*models rows d"], gradient: Float[Tensor, "*models d"]
    ) -> Float[Tensor, "*models rows d"]:
        """The state after the optimiser's own update number ``step = 0, 1, ...``.

        Out of place and differentiable; leading dimensions are models, which it must not mix. ``step`` is a float64
        tensor: what depends on it must be computed with torch.
        """


def check_optimizer(what: str, optimizer: object) -> None:
    """Does this follow the protocol?"""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{what} must be an optimiser such as SGD(lr=0.01), got {optimizer!r}")


def fitted(optimizer: Optimizer, names: Sequence[str], shapes: Sequence[torch.Size]) -> Optimizer:
    """The optimiser told of the parameters that it is to move, where it wants to know."""
    return optimizer.fitted(names, shapes) if hasattr(optimizer, "fitted") else optimizer
