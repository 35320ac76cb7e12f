"""Gradient descent, with momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from gan_influence.checks import check, check_not_negative, is_real
from gan_influence.optimizers.arithmetic import decayed
from gan_influence.optimizers.protocol import LearningRate
from gan_influence.optimizers.rates import check_rate, rate_at

__all__ = ["SGD"]


@dataclass(frozen=True)
class SGD:
    """``torch.optim.SGD``: gradient descent ``theta <- theta - lr * gradient`` (TNNLS eq. 3), or with momentum.

    Args:
        lr: the learning rate, or a schedule: a function of the number of the player's own update, a float64 tensor
            0, 1, ..., made of torch operations; such as ``InverseSqrt(0.1)`` or
            ``lambda k: 0.1 * (1 + torch.cos(torch.pi * k / 500)) / 2``. Of one of ``torch.optim.lr_scheduler``
            :class:`TorchRates` makes such a function.
        momentum: of the velocity ``b <- momentum * b + (1 - dampening) * gradient``; the first is the gradient.
        dampening: see above.
        weight_decay: times the parameters is added to the gradient.
        nesterov: step along ``gradient + momentum * b``.

    Raises:
        ValueError: ``lr`` is not a finite number above 0, another number negative; Nesterov without momentum.
    """

    elementwise: ClassVar[bool] = True
    lr: float | LearningRate
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        check_rate(self.lr)
        check_not_negative(momentum=self.momentum, weight_decay=self.weight_decay)
        check(is_real(self.dampening), "dampening", "a finite number", self.dampening)
        if self.nesterov and (self.momentum <= 0 or self.dampening != 0):
            raise ValueError("nesterov needs momentum > 0 and dampening = 0")

    @property
    def buffers(self) -> int:
        return 1 if self.momentum else 0

    @property
    def torch_buffers(self) -> tuple[str, ...]:
        """The names of the buffers in a state dict of ``torch.optim``, by the rows of a state."""
        return ("momentum_buffer",) if self.momentum else ()

    @property
    def torch_settings(self) -> dict[str, Any]:
        """The settings that such a state dict must share."""
        return {name: getattr(self, name) for name in ("momentum", "dampening", "weight_decay", "nesterov")}

    def update(self, step: Tensor, state: Tensor, gradient: Tensor) -> Tensor:
        theta = state[..., 0, :]
        slope = decayed(gradient, theta, self.weight_decay)
        if not self.momentum:
            return state - rate_at(self.lr, step) * slope.unsqueeze(-2)
        velocity = self.momentum * state[..., 1, :] + (1 - self.dampening) * slope
        if self.dampening:
            velocity = torch.where(step == 0, slope, velocity)
        direction = slope + self.momentum * velocity if self.nesterov else velocity
        return torch.stack([theta - rate_at(self.lr, step) * direction, velocity], dim=-2)
