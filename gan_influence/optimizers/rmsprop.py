"""Steps over the root of a running mean of squared gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from gan_influence.checks import check, check_not_negative, is_real
from gan_influence.optimizers.arithmetic import decayed, moment, root
from gan_influence.optimizers.protocol import LearningRate
from gan_influence.optimizers.rates import check_rate, rate_at

__all__ = ["RMSProp"]


@dataclass(frozen=True)
class RMSProp:
    """``torch.optim.RMSprop``, defaults included.

    Args:
        lr: the learning rate, or a schedule.
        alpha: decay of the second moment ``s <- alpha * s + (1 - alpha) * gradient^2``.
        eps: added to its root.
        weight_decay: times the parameters is added to the gradient.
        momentum: of the scaled gradient.
        centered: subtract the square of the gradient's running mean from the second moment.
        second_moment: of the derivative alone; training is the same. ``"exact"``; or ``"frozen"``, the papers'
            shortcut: the sweep takes the second moment, where ``centered`` less its running mean's square, for a
            constant in the denominator. A row's effect on the gradient is kept, its effect on the size of this step and
            all later ones through the squared gradient is left out. In general that is no approximation of the
            influence: on LQGAN it is off by 1.5 to 6 times the exact derivative, which costs no more (the ledger's
            ``rmsprop-frozen-second-moment``). It is there to be measured.

    Raises:
        ValueError: a number out of range; an unknown ``second_moment``.
    """

    elementwise: ClassVar[bool] = True
    lr: float | LearningRate = 0.01
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False
    second_moment: str = "exact"

    def __post_init__(self) -> None:
        check_rate(self.lr)
        check_not_negative(eps=self.eps, weight_decay=self.weight_decay, momentum=self.momentum)
        check(is_real(self.alpha) and 0 <= self.alpha < 1, "alpha", "a number in [0, 1)", self.alpha)
        check(self.second_moment in ("exact", "frozen"), "second_moment", '"exact" or "frozen"', self.second_moment)

    @property
    def buffers(self) -> int:
        return 1 + bool(self.momentum) + self.centered

    @property
    def torch_buffers(self) -> tuple[str, ...]:
        """The names of the buffers in a state dict of ``torch.optim``, by the rows of a state."""
        return ("square_avg", *(["momentum_buffer"] if self.momentum else []), *(["grad_avg"] if self.centered else []))

    @property
    def torch_settings(self) -> dict[str, Any]:
        """The settings that such a state dict must share."""
        return {name: getattr(self, name) for name in ("alpha", "eps", "weight_decay", "momentum", "centered")}

    def update(self, step: Tensor, state: Tensor, gradient: Tensor) -> Tensor:
        theta = state[..., 0, :]
        slope = decayed(gradient, theta, self.weight_decay)
        second = spread = self.alpha * state[..., 1, :] + (1 - self.alpha) * slope * slope
        of_mean = []
        if self.centered:
            mean = state[..., -1, :] + (1 - self.alpha) * (slope - state[..., -1, :])
            of_mean, spread = [mean], second - mean * mean
        direction = slope / (root(moment(spread, self.second_moment)) + self.eps)
        of_velocity = []
        if self.momentum:
            direction = self.momentum * state[..., 2, :] + direction
            of_velocity = [direction]
        return torch.stack([theta - rate_at(self.lr, step) * direction, second, *of_velocity, *of_mean], dim=-2)
