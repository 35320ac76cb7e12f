"""Gradients cut to a size before an optimiser sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gan_influence.checks import check_positive
from gan_influence.optimizers.arithmetic import root
from gan_influence.optimizers.protocol import LearningRate, Optimizer, check_optimizer, fitted

__all__ = ["Clipped"]

_BESIDE = 1e-6  # what torch.nn.utils.clip_grad_norm_ adds to the norm


@dataclass(frozen=True)
class Clipped:
    """An optimiser that is given clipped gradients, each player's by itself; the sweep differentiates the clipping.

    As with ``torch.optim``, ``weight_decay`` comes after the clipping.

    Args:
        optimizer: what moves the parameters.
        norm: the gradient of all the player's parameters together is shortened to this length, as by
            ``torch.nn.utils.clip_grad_norm_``: times ``min(1, norm / (length + 1e-6))``.
        value: every number of it is cut to ``[-value, value]``, as by ``clip_grad_value_``; after the norm where both
            are given. The other order: ``Clipped(Clipped(optimizer, norm=1.0), value=0.1)``.

    Raises:
        TypeError: ``optimizer`` is none.
        ValueError: neither is given, or one is not a finite number above 0.
    """

    optimizer: Optimizer
    norm: float | None = None
    value: float | None = None

    def __post_init__(self) -> None:
        check_optimizer("Clipped's optimizer", self.optimizer)
        if self.norm is None and self.value is None:
            raise ValueError("Clipped clips nothing: give norm=1.0, value=0.1, or both")
        for name, size in {"norm": self.norm, "value": self.value}.items():
            if size is not None:
                check_positive(name, size)

    @property
    def elementwise(self) -> bool:
        """By value alone, every number is clipped by itself."""
        return self.norm is None and bool(getattr(self.optimizer, "elementwise", False))

    @property
    def buffers(self) -> int:
        return self.optimizer.buffers

    @property
    def lr(self) -> float | Tensor | LearningRate:
        return self.optimizer.lr

    @property
    def weight_decay(self) -> float | Tensor:
        return getattr(self.optimizer, "weight_decay", 0.0)

    def fitted(self, names: Sequence[str], shapes: Sequence[torch.Size]) -> Clipped:
        """The same of an optimiser that has been told the player's parameters."""
        return replace(self, optimizer=fitted(self.optimizer, names, shapes))

    def update(self, step: Tensor, state: Tensor, gradient: Tensor) -> Tensor:
        if self.norm is not None:
            # The root's slope at 0 is 0: that of torch's norm, differentiated twice, is none.
            length = root((gradient * gradient).sum(dim=-1, keepdim=True))
            gradient = gradient * (self.norm / (length + _BESIDE)).clamp(max=1)
        if self.value is not None:
            gradient = gradient.clamp(-self.value, self.value)
        return self.optimizer.update(step, state, gradient)
