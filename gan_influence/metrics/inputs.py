"""What metrics ask of their rows, and of the game they are to measure."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gan_influence.players import Players

__all__ = ["check_generator", "check_reference_and_latents", "check_rows"]


def check_rows(name: str, rows: object) -> None:
    """Floating-point, at least one row, all finite.

    Raises:
        TypeError: it is no floating-point tensor.
        ValueError: it is empty or not finite.
    """
    if not isinstance(rows, Tensor) or not rows.is_floating_point():
        kind = rows.dtype if isinstance(rows, Tensor) else type(rows).__name__
        hint = ": convert it with torch.from_numpy" if isinstance(rows, np.ndarray) else ""
        raise TypeError(f"{name} must be a floating-point tensor, got {kind}{hint}")
    if rows.ndim == 0 or len(rows) == 0:
        raise ValueError(f"{name} must hold at least one row, got shape {tuple(rows.shape)}")
    if not rows.isfinite().all():
        raise ValueError(f"{name} contains NaN or infinity")


def check_reference_and_latents(reference: Tensor, latents: Tensor) -> None:
    """Both as :func:`check_rows` asks, and of one data type.

    Raises:
        TypeError: one of them is no floating-point tensor, or the two differ in data type.
        ValueError: one of them is empty or not finite.
    """
    check_rows("reference", reference)
    check_rows("latents", latents)
    if reference.dtype != latents.dtype:
        raise TypeError(f"reference is {reference.dtype}, but latents are {latents.dtype}: convert one of them")


def check_generator(metric: str, players: Players, dtype: torch.dtype) -> None:
    """The game has a generator, whose parameters are of the metric's data type.

    Raises:
        TypeError: it has not, or they are not.
    """
    if "generator" not in players.parameters:
        names = list(players.parameters)
        there = "one player" if len(names) == 1 else f"the players {', '.join(names)}"
        raise TypeError(
            f"{metric} measures a generator, but this game has {there}: use AverageLoss or PlayerLoss, or a GAN"
        )
    of_generator = players.parameters["generator"].dtype
    if of_generator != dtype:
        raise TypeError(
            f"the generator's parameters are {of_generator}, but the metric's latents and reference are "
            f"{dtype}: convert one of them"
        )
