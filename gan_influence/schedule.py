"""Which rows and which latents step ``t`` of training uses, as a pure function of ``t``.

A schedule can be asked for any step, in any order and any number of times: retraining and the reverse sweep replay
it. Whatever is random in it must therefore be derived from a seed and ``t``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gan_influence.checks import is_whole

__all__ = ["Batch", "FullBatch", "Minibatches", "Schedule"]


class Batch(NamedTuple):
    """What one step sees: ``indices`` of the training rows and ``latents``.

    ``None`` stands for all rows; and for no latents, in a one-player game.
    """

    indices: Int[Tensor, " batch"] | None
    latents: Float[Tensor, "n_z *latent"] | None


class Schedule(Protocol):
    """What training needs of a schedule: the batch of step ``t >= 0``, the same at every call."""

    def __call__(self, t: int) -> Batch: ...


class FullBatch:
    """Every step uses all rows and the same latents: TNNLS eq. 3.

    Args:
        latents: ``(N_z, *latent_shape)``; none in a one-player game.

    Raises:
        TypeError: the latents are not a floating-point tensor.
        ValueError: there are none, or some are not finite.
    """

    def __init__(self, latents: Float[Tensor, "n_z *latent"] | None = None):
        self.latents = None
        if latents is None:
            return
        if not isinstance(latents, Tensor) or not latents.is_floating_point():
            raise TypeError(f"latents must be a floating-point tensor (N_z, *latent_shape), got {_describe(latents)}")
        if latents.ndim == 0 or len(latents) == 0:
            raise ValueError(f"latents must hold at least one row, got shape {tuple(latents.shape)}")
        if not latents.isfinite().all():
            raise ValueError("latents contain NaN or infinity")
        self.latents = latents.detach().clone()

    def __call__(self, t: int) -> Batch:
        return Batch(None, self.latents)


@dataclass(frozen=True)
class Minibatches:
    """Every row once an epoch, in a fresh order each epoch, with fresh N(0, 1) latents (ICLR Section 2, TNNLS VI-A).

    An epoch is ``ceil(size / batch_size)`` steps; where ``batch_size`` does not divide ``size`` its last batch is
    smaller, and so is its denominator. All draws come from counter-based generators keyed by (seed, epoch) and
    (seed, t): step t is the same whatever was asked for before.

    Args:
        size: N, how many rows the data has.
        batch_size: rows a step.
        latent_shape: of one latent; a step has one latent a row. ``None`` in a one-player game.
        seed: of all draws.
        dtype: of the latents; by default that of the data they are used with, rounded from float64 draws.

    Raises:
        ValueError: a batch size outside 1 ... N; a latent shape that is none; a negative seed.

    Example:
        >>> schedule = Minibatches(size=5, batch_size=2, latent_shape=(3,), seed=0)
        >>> [len(schedule(t).indices) for t in range(4)], schedule(0).latents.shape
        ([2, 2, 1, 2], torch.Size([2, 3]))
    """

    size: int
    batch_size: int
    latent_shape: tuple[int, ...] | None = None
    seed: int = 0
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if not is_whole(self.size) or self.size < 1:
            raise ValueError(f"size must be the number of training rows, at least 1, got {self.size!r}")
        if not is_whole(self.batch_size) or not 1 <= self.batch_size <= self.size:
            raise ValueError(f"batch_size must lie between 1 and size = {self.size}, got {self.batch_size!r}")
        if self.latent_shape is not None:
            shape = tuple(self.latent_shape) if isinstance(self.latent_shape, tuple | list) else (None,)
            if not all(is_whole(length) and length >= 1 for length in shape):
                raise ValueError(
                    f"latent_shape must be a tuple of lengths >= 1, such as (10,), got {self.latent_shape!r}"
                )
            object.__setattr__(self, "latent_shape", shape)
        if not is_whole(self.seed) or not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must be a whole number from 0 to 2^64 - 1, got {self.seed!r}")
        if self.dtype is not None and not (isinstance(self.dtype, torch.dtype) and self.dtype.is_floating_point):
            raise ValueError(f"dtype must be a floating-point data type, got {self.dtype!r}")

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.size // self.batch_size)

    def __call__(self, t: int) -> Batch:
        epoch, k = divmod(t, self.steps_per_epoch)
        indices = _order(self.size, self.seed, epoch)[k * self.batch_size : (k + 1) * self.batch_size].clone()
        if self.latent_shape is None:
            return Batch(indices, None)
        latents = torch.from_numpy(_random(self.seed, "latents", t).standard_normal((len(indices), *self.latent_shape)))
        return Batch(indices, latents if self.dtype is None else latents.to(self.dtype))


@lru_cache(maxsize=8)
def _order(size: int, seed: int, epoch: int) -> Int[Tensor, " size"]:
    return torch.from_numpy(_random(seed, "order", epoch).permutation(size))


_STREAMS = {"order": 0, "latents": 1}


def _random(seed: int, stream: str, counter: int) -> np.random.Generator:
    """Philox is a function of (key, counter): streams of different steps cannot overlap."""
    key = np.array([seed, _STREAMS[stream]], dtype=np.uint64)  # of a list with a large seed NumPy makes floats
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, counter]))


def _describe(value: object) -> str:
    return f"a {value.dtype} tensor" if isinstance(value, torch.Tensor) else type(value).__name__
