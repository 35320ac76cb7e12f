"""Settings that optimisers share, checked when an optimiser is made."""

from __future__ import annotations

from gan_influence.checks import is_real
from gan_influence.optimizers.protocol import Optimizer

__all__ = ["check_decay", "check_not_negative", "check_optimizer", "check_positive", "check_second_moment"]


def check_positive(name: str, value: object) -> None:
    """Is this a finite number above 0?"""
    if not is_real(value) or value <= 0:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")


def check_not_negative(**values: object) -> None:
    """Are these finite numbers, none negative?"""
    for name, value in values.items():
        if not is_real(value) or value < 0:
            raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")


def check_decay(name: str, value: object) -> None:
    """Is this a number in [0, 1)?"""
    if not is_real(value) or not 0 <= value < 1:
        raise ValueError(f"{name} must be a number in [0, 1), got {value!r}")


def check_second_moment(how: object) -> None:
    """Is this a way to differentiate the second moment?"""
    if how not in ("exact", "frozen"):
        raise ValueError(f'second_moment must be "exact" or "frozen", got {how!r}')


def check_optimizer(what: str, optimizer: object) -> None:
    """Does this follow the protocol?"""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{what} must be an optimiser such as SGD(lr=0.01), got {optimizer!r}")
