"""A GAN of images that settles: a linear generator and a quadratic discriminator, as in the LQGAN of TNNLS VI-A1."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Quadratic", "linear_players"]

_SPREAD = 0.05  # of the generator's first weights: its images begin close to grey


class Quadratic(nn.Module):
    """``D(x) = x^T A x / sqrt(p) + b^T x + c`` of p pixels, zero at first: it sees mean and covariance, no more."""

    def __init__(self, pixels: int):
        super().__init__()
        self.quadratic = nn.Linear(pixels, pixels, bias=False)
        self.linear = nn.Linear(pixels, 1)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, images: Float[Tensor, "n *image"]) -> Float[Tensor, " n"]:
        """One logit an image."""
        flat = images.flatten(1)
        return (flat * self.quadratic(flat)).sum(1) / math.sqrt(flat.shape[1]) + self.linear(flat)[:, 0]


def linear_players(shape: torch.Size, latent_size: int, seed: int) -> tuple[nn.Sequential, Quadratic]:
    """Both players, for images of this shape, ``(colours, height, width)``."""
    with torch.random.fork_rng(devices=[]):  # torch's own initialisation, replaced below, draws from it
        linear, discriminator = nn.Linear(latent_size, shape.numel()), Quadratic(shape.numel())
    nn.init.normal_(linear.weight, std=_SPREAD, generator=torch.Generator().manual_seed(seed))
    nn.init.zeros_(linear.bias)
    return nn.Sequential(linear, nn.Unflatten(1, tuple(shape))), discriminator
