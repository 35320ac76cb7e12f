"""The fully connected GAN for two-dimensional data (ICLR 5.1, Appendix C.2)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from gan_influence.checks import is_whole

__all__ = ["fcgan"]

_ROW = 2  # numbers in a row of 2D-Normal


def fcgan(
    form: str = "code", *, latent_size: int = 10, hidden: tuple[int, int] = (32, 64), seed: int | None = None
) -> tuple[nn.Sequential, nn.Sequential]:
    """Both players of the FCGAN, float64, for latents ``(n, latent_size)`` and rows ``(n, 2)``.

    The paper and its authors' code disagree about the layers, all ReLU between::

        "code":   G: latent_size -> h_G -> h_G -> 2           D: 2 -> h_D -> h_D -> 1     no biases
        "paper":  G: latent_size -> h_G -> 2, then tanh       D: 2 -> h_D -> 1            biases (Table 3)

    With tanh the generator cannot leave [-1, 1]^2, where most of N((1, 1), .) does not lie: the code's form is the
    plausible one. D returns the logit; Table 3's sigmoid belongs to the loss.

    Args:
        form: ``"code"`` or ``"paper"``.
        latent_size: numbers in a latent.
        hidden: ``(h_G, h_D)``, the units of each hidden layer.
        seed: of the kernels, Glorot uniform; by default they come from torch's global generator. Biases start at zero.

    Raises:
        ValueError: unknown form, or a size below 1.
    """
    if form not in ("code", "paper"):
        raise ValueError(f"unknown form {form!r}; known forms: code, paper")
    if not (isinstance(hidden, tuple | list) and len(hidden) == 2):
        raise ValueError(f"hidden must be two sizes, (generator, discriminator), got {hidden!r}")
    for name, size in (("latent_size", latent_size), ("hidden[0]", hidden[0]), ("hidden[1]", hidden[1])):
        if not is_whole(size) or size < 1:
            raise ValueError(f"{name} must be a whole number >= 1, got {size!r}")
    random = None if seed is None else torch.Generator().manual_seed(seed)
    of_generator, of_discriminator = hidden
    if form == "code":
        generator = _layers([latent_size, of_generator, of_generator, _ROW], False, random)
        return generator, _layers([_ROW, of_discriminator, of_discriminator, 1], False, random)
    generator = _layers([latent_size, of_generator, _ROW], True, random).append(nn.Tanh())
    return generator, _layers([_ROW, of_discriminator, 1], True, random)


def _layers(sizes: list[int], bias: bool, random: torch.Generator | None) -> nn.Sequential:
    """Linear layers of these sizes with ReLU between."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        with torch.random.fork_rng(devices=[]):  # torch's own initialisation, replaced below, draws from it
            linear = nn.Linear(before, after, bias=bias, dtype=torch.float64)
        nn.init.xavier_uniform_(linear.weight, generator=random)
        if bias:
            nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
