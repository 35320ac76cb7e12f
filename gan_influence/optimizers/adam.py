"""Adam, and Adam with decoupled weight decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from gan_influence.checks import check, check_not_negative, is_real
from gan_influence.optimizers.arithmetic import decayed, moment, root
from gan_influence.optimizers.protocol import LearningRate
from gan_influence.optimizers.rates import check_rate, rate_at

__all__ = ["Adam", "AdamW"]


@dataclass(frozen=True)
class Adam:
    """``torch.optim.Adam``, defaults included.

    Args:
        lr: the learning rate, or a schedule.
        betas: decays of the first and second moment.
        eps: added to the root of the second.
        weight_decay: times the parameters is added to the gradient.
        amsgrad: take the root of the largest second moment so far, which is remembered beside it.
        second_moment: of the derivative alone; training is the same. ``"exact"``; or ``"frozen"``, the papers'
            shortcut: the sweep takes the second moment, the largest where ``amsgrad``, for a constant in
            the denominator. A row's effect on the gradient is kept, its effect on the size of this step and all later
            ones through the squared gradient is left out. In general that is no approximation of the influence: on
            LQGAN it is off by 1.5 to 6 times the exact derivative, which costs no more (the ledger's
            ``rmsprop-frozen-second-moment``). It is there to be measured.

    Raises:
        ValueError: a number out of range; an ``amsgrad`` other than True and False; an unknown ``second_moment``.
    """

    elementwise: ClassVar[bool] = True
    _decoupled: ClassVar[bool] = False
    lr: float | LearningRate = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False
    second_moment: str = "exact"

    def __post_init__(self) -> None:
        check_rate(self.lr)
        is_pair = isinstance(self.betas, tuple | list) and len(self.betas) == 2
        check(is_pair, "betas", "two numbers in [0, 1)", self.betas)
        for k, beta in enumerate(self.betas):
            check(is_real(beta) and 0 <= beta < 1, f"betas[{k}]", "a number in [0, 1)", beta)
        check_not_negative(eps=self.eps, weight_decay=self.weight_decay)
        check(isinstance(self.amsgrad, bool), "amsgrad", "True or False", self.amsgrad)
        check(self.second_moment in ("exact", "frozen"), "second_moment", '"exact" or "frozen"', self.second_moment)

    @property
    def buffers(self) -> int:
        return 2 + self.amsgrad

    @property
    def torch_buffers(self) -> tuple[str, ...]:
        """The names of the buffers in a state dict of ``torch.optim``, by the rows of a state."""
        return ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if self.amsgrad else []))

    @property
    def torch_settings(self) -> dict[str, Any]:
        """The settings that such a state dict must share."""
        return {
            **{name: getattr(self, name) for name in ("betas", "eps", "weight_decay", "amsgrad")},
            **({"decoupled_weight_decay": self._decoupled} if self.weight_decay else {}),
        }

    def update(self, step: Tensor, state: Tensor, gradient: Tensor) -> Tensor:
        theta = state[..., 0, :]
        return self._moved(step, state, theta, decayed(gradient, theta, self.weight_decay))

    def _moved(self, step: Tensor, state: Tensor, theta: Tensor, slope: Tensor) -> Tensor:
        """From ``theta`` along the bias-corrected first moment, over the root of the second."""
        decay, decay_of_squares = self.betas
        first = state[..., 1, :] + (1 - decay) * (slope - state[..., 1, :])
        second = decay_of_squares * state[..., 2, :] + (1 - decay_of_squares) * slope * slope
        largest = torch.maximum(state[..., 3, :], second) if self.amsgrad else second
        spread = root(moment(largest, self.second_moment)) / (1 - decay_of_squares ** (step + 1)).sqrt()
        size = rate_at(self.lr, step) / (1 - decay ** (step + 1))
        of_largest = [largest] if self.amsgrad else []
        return torch.stack([theta - size * (first / (spread + self.eps)), first, second, *of_largest], dim=-2)


@dataclass(frozen=True)
class AdamW(Adam):
    """``torch.optim.AdamW``, defaults included: Adam whose weight decay shrinks the parameters themselves."""

    _decoupled: ClassVar[bool] = True
    weight_decay: float = 1e-2

    def update(self, step: Tensor, state: Tensor, gradient: Tensor) -> Tensor:
        theta = state[..., 0, :] * (1 - rate_at(self.lr, step) * self.weight_decay)
        return self._moved(step, state, theta, gradient)
