"""Operations that optimisers share, on every parameter by itself."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["decayed", "moment", "root"]


def decayed(gradient: Tensor, theta: Tensor, weight_decay: float) -> Tensor:
    """The gradient with ``weight_decay`` times the parameters added."""
    return gradient + weight_decay * theta if weight_decay else gradient


def moment(second: Tensor, how: str) -> Tensor:
    """The second moment as the sweep is to see it: ``"exact"``, or ``"frozen"``, for a constant."""
    return second.detach() if how == "frozen" else second


def root(second: Tensor) -> Tensor:
    """The square root, with slope 0 at 0: there the gradient is 0, and ``gradient / (root + eps)`` has slope 1/eps."""
    zero = second == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, second).sqrt())
