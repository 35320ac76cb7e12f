"""Metrics that cost next to nothing, so that what is measured is the sweep."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import gan_influence as gi

__all__ = ["mean_logit"]


def mean_logit(latent_shape: tuple[int, ...]) -> Callable[[gi.Players], Tensor]:
    """What the discriminator says of one generated row: a metric that looks at both players."""

    def value(players: gi.Players) -> Tensor:
        latents = torch.ones(1, *latent_shape).to(players.parameters["generator"])
        return players.discriminator(players.generator(latents)).mean()

    return value
