"""Does a call draw random numbers of its own?"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

__all__ = ["draws"]

_SUSPICIOUS = 4  # times in a row; once may be another thread's doing


def draws(call: Callable[[], Any], device: torch.device) -> bool:
    """Does it move a generator of torch's, NumPy's or Python's, every time? The noise may be small, or rare."""

    def moves() -> bool:
        before = _states(device)
        call()
        return before != _states(device)

    return all(moves() for _ in range(_SUSPICIOUS))


def _states(device: torch.device) -> tuple:
    states = [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]
    _, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - to see whether others use it
    return tuple(state.numpy().tobytes() for state in states), random.getstate(), np.asarray(keys).tobytes(), rest
