"""Update maps as pure functions of the optimiser's state and the gradient.

A state is a tensor ``(..., 1 + buffers, d)``: row 0 holds the parameters, further rows what the optimiser remembers of
them. An update acts on each of the ``d`` columns alone. Both :func:`gan_influence.train` and the pull-back of the
reverse sweep call the same ``update``, so that the sweep is its exact derivative.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from gan_influence.checks import is_real
from gan_influence.game import Game

__all__ = ["SGD", "Optimizer", "Updates"]


@runtime_checkable
class Optimizer(Protocol):
    """What training needs of an optimiser."""

    @property
    def buffers(self) -> int:
        """How many vectors it remembers, each as long as the parameters; they start at zero."""
        ...

    @property
    def lr(self) -> float:
        """The learning rate: AID's default scaling coefficient eta (TNNLS eq. 11)."""
        ...

    def update(
        self, step: Float[Tensor, ""], state: Float[Tensor, "*models rows d"], gradient: Float[Tensor, "*models d"]
    ) -> Float[Tensor, "*models rows d"]:
        """The state after ``step``, elementwise in ``d``, out of place and differentiable."""
        ...


class SGD:
    """Plain gradient descent, ``theta <- theta - lr * gradient`` (TNNLS eq. 3).

    Raises:
        ValueError: ``lr`` is not a finite number above 0.
    """

    buffers = 0

    def __init__(self, lr: float):
        if not is_real(lr) or lr <= 0:
            raise ValueError(f"lr must be a finite number above 0, got {lr!r}")
        self.lr = float(lr)

    def __repr__(self) -> str:
        return f"SGD(lr={self.lr})"

    def update(self, step: Tensor, state: Tensor, gradient: Tensor) -> Tensor:
        return state - self.lr * gradient.unsqueeze(-2)


class Updates:
    """The update of both players together: one optimiser for both, or ``(for_generator, for_discriminator)``.

    Raises:
        TypeError: something given is no optimiser.
    """

    def __init__(self, optimizer: Optimizer | tuple[Optimizer, Optimizer], game: Game):
        pair = optimizer if isinstance(optimizer, tuple | list) else (optimizer, optimizer)
        if len(pair) != 2 or not all(isinstance(one, Optimizer) for one in pair):
            raise TypeError(
                f"optimizer must be an optimiser such as SGD(lr=0.01), or a pair (for_generator, for_discriminator), "
                f"got {optimizer!r}; known optimisers: SGD"
            )
        self.pair: tuple[Optimizer, Optimizer] = (pair[0], pair[1])
        self.sizes = [game.generator.size, game.discriminator.size]
        self.rows = 1 + max(one.buffers for one in pair)

    def start(self, theta: Float[Tensor, "*models d"]) -> Float[Tensor, "*models rows d"]:
        """The state before the first step: the parameters, and buffers of zeros."""
        state = theta.new_zeros(*theta.shape[:-1], self.rows, theta.shape[-1])
        state[..., 0, :] = theta
        return state

    def __call__(
        self, step: Float[Tensor, ""], state: Float[Tensor, "*models rows d"], gradient: Float[Tensor, "*models d"]
    ) -> Float[Tensor, "*models rows d"]:
        """The state after ``step``."""
        for_generator, for_discriminator = self.pair
        if for_generator is for_discriminator:
            return for_generator.update(step, state, gradient)
        parts = []
        for one, part, slope in zip(
            self.pair, state.split(self.sizes, dim=-1), gradient.split(self.sizes, dim=-1), strict=True
        ):
            used = 1 + one.buffers
            unused = part[..., used:, :]
            parts.append(torch.cat([one.update(step, part[..., :used, :], slope), unused], dim=-2))
        return torch.cat(parts, dim=-1)

    def pull_back(
        self,
        step: Float[Tensor, ""],
        state: Float[Tensor, "rows d"],
        gradient: Float[Tensor, " d"],
        cotangent: Float[Tensor, "*stops rows d"],
    ) -> tuple[Float[Tensor, "*stops rows d"], Float[Tensor, "*stops d"]]:
        """The cotangents of the step's input state and of its gradient, given the cotangent of its output state."""
        with torch.enable_grad():
            state = state.expand_as(cotangent).detach().requires_grad_()
            gradient = gradient.expand(*cotangent.shape[:-2], -1).detach().requires_grad_()
            after = self(step, state, gradient)
        of_state, of_gradient = torch.autograd.grad(after, (state, gradient), cotangent, materialize_grads=True)
        return of_state, of_gradient

    def learning_rates(self, like: Float[Tensor, "*models d"]) -> Float[Tensor, " d"]:
        """Each parameter's learning rate."""
        rates = [like.new_full((size,), one.lr) for one, size in zip(self.pair, self.sizes, strict=True)]
        return torch.cat(rates)
