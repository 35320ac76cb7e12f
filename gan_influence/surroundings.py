"""What a public function does not take from its surroundings: autograd's mode, autocast, other threads."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

__all__ = ["callers_level", "undisturbed", "warn"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_ONE_AT_A_TIME = threading.RLock()


def undisturbed(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """``function``, outside of its caller's ``inference_mode`` and ``autocast``, and one call of a process at a time.

    Under ``inference_mode`` nothing can be differentiated, and what is made there can never be; under ``autocast`` a
    step has other numbers than the same step replayed elsewhere. Runs share recordings and modules with their
    retrainings, and torch's precision settings with all others: calls from several threads wait for one another.
    """

    @wraps(function)
    def called(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with ExitStack() as stack:
            stack.enter_context(_ONE_AT_A_TIME)
            if torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(False))
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            return function(*args, **kwargs)

    return called


def warn(message: str) -> None:
    """A ``RuntimeWarning``, which points to the program that has called this package."""
    warnings.warn(message, RuntimeWarning, stacklevel=callers_level())


def callers_level() -> int:
    """The ``stacklevel`` at which a warning points to the program that has called this package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("gan_influence."):
        frame, level = frame.f_back, level + 1
    return level
