"""The linear quadratic GAN for one-dimensional data (TNNLS VI-A1)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["LinearGenerator", "QuadraticDiscriminator", "lqgan"]


class LinearGenerator(nn.Module):
    """``G(phi, z) = phi_1 z + phi_2``; ``scale`` is phi_1 and ``shift`` phi_2."""

    def __init__(self, scale: float, shift: float):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale, dtype=torch.float64))
        self.shift = nn.Parameter(torch.tensor(shift, dtype=torch.float64))

    def forward(self, latents: Float[Tensor, "n *one"]) -> Float[Tensor, "n *one"]:
        return self.scale * latents + self.shift


class QuadraticDiscriminator(nn.Module):
    """``D(psi, x) = psi_1 x^2 + psi_2 x``; ``quadratic`` is psi_1 and ``linear`` psi_2."""

    def __init__(self, quadratic: float, linear: float):
        super().__init__()
        self.quadratic = nn.Parameter(torch.tensor(quadratic, dtype=torch.float64))
        self.linear = nn.Parameter(torch.tensor(linear, dtype=torch.float64))

    def forward(self, rows: Float[Tensor, "n *one"]) -> Float[Tensor, "n *one"]:
        return (self.quadratic * rows + self.linear) * rows


def lqgan(
    scale: float | None = None,
    shift: float | None = None,
    quadratic: float | None = None,
    linear: float | None = None,
    *,
    seed: int | None = None,
) -> tuple[LinearGenerator, QuadraticDiscriminator]:
    """Both players of the LQGAN, float64, for rows and latents of shape ``(n, 1)`` or ``(n,)``.

    Args:
        scale, shift, quadratic, linear: phi_1, phi_2, psi_1, psi_2; those left out are drawn from N(0, 1). The paper
            states no initialisation.
        seed: of these draws; by default they come from torch's global generator.
    """
    random = None if seed is None else torch.Generator().manual_seed(seed)
    drawn = torch.randn(4, dtype=torch.float64, generator=random).tolist()
    phi_1, phi_2, psi_1, psi_2 = (
        draw if given is None else given for given, draw in zip((scale, shift, quadratic, linear), drawn, strict=True)
    )
    return LinearGenerator(phi_1, phi_2), QuadraticDiscriminator(psi_1, psi_2)
