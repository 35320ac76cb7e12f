"""Which rows and which latents step ``t`` of training uses, as a pure function of ``t``.

A schedule can be asked for any step, in any order and any number of times: retraining and the reverse sweep replay
it. Whatever is random in it must therefore be derived from a seed and ``t``.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Batch", "FullBatch", "Schedule"]


class Batch(NamedTuple):
    """What one step sees: ``indices`` of the training rows (``None`` stands for all rows) and ``latents``."""

    indices: Int[Tensor, " batch"] | None
    latents: Float[Tensor, "n_z *latent"]


class Schedule(Protocol):
    """What training needs of a schedule: the batch of step ``t >= 0``, the same at every call."""

    def __call__(self, t: int) -> Batch: ...


class FullBatch:
    """Every step uses all rows and the same latents: TNNLS eq. 3.

    Args:
        latents: ``(N_z, *latent_shape)``.

    Raises:
        TypeError: the latents are not a floating-point tensor.
        ValueError: there are none, or some are not finite.
    """

    def __init__(self, latents: Float[Tensor, "n_z *latent"]):
        if not isinstance(latents, Tensor) or not latents.is_floating_point():
            raise TypeError(f"latents must be a floating-point tensor (N_z, *latent_shape), got {_describe(latents)}")
        if latents.ndim == 0 or len(latents) == 0:
            raise ValueError(f"latents must hold at least one row, got shape {tuple(latents.shape)}")
        if not latents.isfinite().all():
            raise ValueError("latents contain NaN or infinity")
        self.latents = latents.detach().clone()

    def __call__(self, t: int) -> Batch:
        return Batch(None, self.latents)


def _describe(value: object) -> str:
    return f"a {value.dtype} tensor" if isinstance(value, torch.Tensor) else type(value).__name__
