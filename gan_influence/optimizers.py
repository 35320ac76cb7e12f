"""Update maps as pure functions of the optimiser's state and the gradient.

A state is a tensor ``(..., rows, d)``: row 0 holds the parameters, further rows what the optimiser remembers of
them, and, where training averages its generator, a last row the average. An update acts on each of the ``d`` columns
alone. Both :func:`gan_influence.train` and the pull-back of the reverse sweep call the same ``update``, so that the
sweep is its exact derivative: through momentum, second moments, bias correction, weight decay and the average.

The arithmetic of :class:`SGD`, :class:`RMSProp`, :class:`Adam` and :class:`AdamW` is that of ``torch.optim``, defaults
included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from gan_influence.checks import is_real

__all__ = ["SGD", "Adam", "AdamW", "InverseSqrt", "Optimizer", "RMSProp", "from_torch", "rates_of"]

LearningRate = Callable[[Float[Tensor, ""]], Float[Tensor, ""]]


@runtime_checkable
class Optimizer(Protocol):
    """What training needs of an optimiser.

    It is called once for each player that moves, with that player's part of the state, also where one object serves
    both: one that looks at more than one parameter at a time, as clipping by norm does, then sees one player. One that
    treats every parameter by itself may say so with an attribute ``elementwise = True``; both players, where they move
    at once, are then one call. Where ``update`` shrinks the parameters by a rate besides following the gradient, an
    attribute ``weight_decay`` tells AID that rate, which belongs to J.
    """

    @property
    def buffers(self) -> int:
        """How many vectors it remembers, each as long as the parameters; they start at zero."""
        ...

    @property
    def lr(self) -> float | LearningRate:
        """The learning rate, or its schedule: AID's default scaling coefficient eta (TNNLS eq. 11)."""
        ...

    def update(
        self, step: Float[Tensor, ""], state: Float[Tensor, "*models rows d"], gradient: Float[Tensor, "*models d"]
    ) -> Float[Tensor, "*models rows d"]:
        """The state after the optimiser's own update number ``step = 0, 1, ...``.

        Out of place and differentiable; leading dimensions are models, which it must not mix. ``step`` is a float64
        tensor: what depends on it must be computed with torch.
        """
        ...


@dataclass(frozen=True)
class InverseSqrt:
    """The learning rate ``lr / sqrt(t)`` of update t = 1, 2, ..., for ``SGD(lr=InverseSqrt(0.1))`` and the others.

    Raises:
        ValueError: ``lr`` is not a finite number above 0.
    """

    lr: float

    def __post_init__(self) -> None:
        _check_positive("lr", self.lr)

    def __call__(self, step: Float[Tensor, ""]) -> Float[Tensor, ""]:
        return self.lr / (step + 1).sqrt()


@dataclass(frozen=True)
class SGD:
    """``torch.optim.SGD``: gradient descent ``theta <- theta - lr * gradient`` (TNNLS eq. 3), or with momentum.

    Args:
        lr: the learning rate, or a schedule: a function of the number of the player's own update, a float64 tensor
            0, 1, ..., made of torch operations; such as ``InverseSqrt(0.1)`` or
            ``lambda k: 0.1 * (1 + torch.cos(torch.pi * k / 500)) / 2``. One of ``torch.optim.lr_scheduler`` is none.
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
        _check_rate(self.lr)
        _check_not_negative(momentum=self.momentum, weight_decay=self.weight_decay)
        if not is_real(self.dampening):
            raise ValueError(f"dampening must be a finite number, got {self.dampening!r}")
        if self.nesterov and (self.momentum <= 0 or self.dampening != 0):
            raise ValueError("nesterov needs momentum > 0 and dampening = 0")

    @property
    def buffers(self) -> int:
        return 1 if self.momentum else 0

    def update(self, step: Tensor, state: Tensor, gradient: Tensor) -> Tensor:
        theta = state[..., 0, :]
        slope = _decayed(gradient, theta, self.weight_decay)
        if not self.momentum:
            return state - _at(self.lr, step) * slope.unsqueeze(-2)
        velocity = self.momentum * state[..., 1, :] + (1 - self.dampening) * slope
        if self.dampening:
            velocity = torch.where(step == 0, slope, velocity)
        direction = slope + self.momentum * velocity if self.nesterov else velocity
        return torch.stack([theta - _at(self.lr, step) * direction, velocity], dim=-2)


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
        second_moment: ``"exact"``; or ``"frozen"``, the papers' shortcut: the sweep takes the root in the denominator
            for a constant. Training is the same.

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
        _check_rate(self.lr)
        _check_not_negative(eps=self.eps, weight_decay=self.weight_decay, momentum=self.momentum)
        _check_decay("alpha", self.alpha)
        _check_second_moment(self.second_moment)

    @property
    def buffers(self) -> int:
        return 1 + bool(self.momentum) + self.centered

    def update(self, step: Tensor, state: Tensor, gradient: Tensor) -> Tensor:
        theta = state[..., 0, :]
        slope = _decayed(gradient, theta, self.weight_decay)
        second = spread = self.alpha * state[..., 1, :] + (1 - self.alpha) * slope * slope
        of_mean = []
        if self.centered:
            mean = state[..., -1, :] + (1 - self.alpha) * (slope - state[..., -1, :])
            of_mean, spread = [mean], second - mean * mean
        direction = slope / (_root(_moment(spread, self.second_moment)) + self.eps)
        of_velocity = []
        if self.momentum:
            direction = self.momentum * state[..., 2, :] + direction
            of_velocity = [direction]
        return torch.stack([theta - _at(self.lr, step) * direction, second, *of_velocity, *of_mean], dim=-2)


@dataclass(frozen=True)
class Adam:
    """``torch.optim.Adam``, defaults included (without ``amsgrad``).

    Args:
        lr: the learning rate, or a schedule.
        betas: decays of the first and second moment.
        eps: added to the root of the second.
        weight_decay: times the parameters is added to the gradient.
        second_moment: ``"exact"``; or ``"frozen"``, the papers' shortcut: the sweep takes the root in the denominator
            for a constant. Training is the same.

    Raises:
        ValueError: a number out of range; an unknown ``second_moment``.
    """

    elementwise: ClassVar[bool] = True
    lr: float | LearningRate = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    second_moment: str = "exact"

    def __post_init__(self) -> None:
        _check_rate(self.lr)
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise ValueError(f"betas must be two numbers in [0, 1), got {self.betas!r}")
        for name, beta in zip(("betas[0]", "betas[1]"), self.betas, strict=True):
            _check_decay(name, beta)
        _check_not_negative(eps=self.eps, weight_decay=self.weight_decay)
        _check_second_moment(self.second_moment)

    @property
    def buffers(self) -> int:
        return 2

    def update(self, step: Tensor, state: Tensor, gradient: Tensor) -> Tensor:
        theta = state[..., 0, :]
        return self._moved(step, state, theta, _decayed(gradient, theta, self.weight_decay))

    def _moved(self, step: Tensor, state: Tensor, theta: Tensor, slope: Tensor) -> Tensor:
        """From ``theta`` along the bias-corrected first moment, over the root of the second."""
        decay, decay_of_squares = self.betas
        first = state[..., 1, :] + (1 - decay) * (slope - state[..., 1, :])
        second = decay_of_squares * state[..., 2, :] + (1 - decay_of_squares) * slope * slope
        root = _root(_moment(second, self.second_moment)) / (1 - decay_of_squares ** (step + 1)).sqrt()
        size = _at(self.lr, step) / (1 - decay ** (step + 1))
        return torch.stack([theta - size * (first / (root + self.eps)), first, second], dim=-2)


@dataclass(frozen=True)
class AdamW(Adam):
    """``torch.optim.AdamW``, defaults included: Adam whose weight decay shrinks the parameters themselves."""

    weight_decay: float = 1e-2

    def update(self, step: Tensor, state: Tensor, gradient: Tensor) -> Tensor:
        theta = state[..., 0, :] * (1 - _at(self.lr, step) * self.weight_decay)
        return self._moved(step, state, theta, gradient)


def _decayed(gradient: Tensor, theta: Tensor, weight_decay: float) -> Tensor:
    return gradient + weight_decay * theta if weight_decay else gradient


def _at(lr: float | LearningRate, step: Tensor) -> float | Tensor:
    return lr(step) if callable(lr) else lr


def _moment(second: Tensor, how: str) -> Tensor:
    return second.detach() if how == "frozen" else second


def _root(second: Tensor) -> Tensor:
    """The square root, with slope 0 at 0: there the gradient is 0, and ``gradient / (root + eps)`` has slope 1/eps."""
    zero = second == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, second).sqrt())


def _check_rate(lr: object) -> None:
    if isinstance(lr, LRScheduler):
        raise ValueError(
            "lr must be a finite number above 0, or a function of the update's number 0, 1, ..., made of torch "
            f"operations, such as lambda k: 0.1 * 0.99**k; got a {type(lr).__name__}, bound to an optimiser of torch's"
        )
    if not callable(lr):
        _check_positive("lr", lr)


def _check_positive(name: str, value: object) -> None:
    if not is_real(value) or value <= 0:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")


def _check_not_negative(**values: object) -> None:
    for name, value in values.items():
        if not is_real(value) or value < 0:
            raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")


def _check_decay(name: str, value: object) -> None:
    if not is_real(value) or not 0 <= value < 1:
        raise ValueError(f"{name} must be a number in [0, 1), got {value!r}")


def _check_second_moment(how: object) -> None:
    if how not in ("exact", "frozen"):
        raise ValueError(f'second_moment must be "exact" or "frozen", got {how!r}')


def from_torch(*args):
    raise NotImplementedError


def rates_of(optimizer, step):
    return float(_at(optimizer.lr, step))
