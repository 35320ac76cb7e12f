"""The deep convolutional GAN for small images (TNNLS Table IV, ICLR Table 4)."""

from __future__ import annotations

import torch
from torch import nn

from gan_influence.checks import is_whole
from gan_influence.nn import Convolution, Deconvolution, ImageNorm, Sigmoid

__all__ = ["LATENT_SIZE", "dcgan"]

LATENT_SIZE = 32
_KERNELS_AND_STRIDES = {  # of the generator, from the latent to the image; the discriminator is the mirror image
    64: ((2, 1), (3, 1), (3, 2), (2, 1), (3, 1), (3, 1), (3, 2), (2, 1), (4, 2), (3, 1)),
    32: ((2, 1), (3, 1), (3, 2), (2, 1), (3, 1), (3, 1), (3, 2), (4, 1)),
    28: ((2, 1), (3, 1), (3, 2), (2, 1), (3, 1), (3, 2), (4, 1)),
    8: ((2, 1), (3, 1), (2, 2)),
}


def dcgan(
    channels: int = 8,
    image_size: int = 28,
    *,
    colours: int = 1,
    latent_size: int = LATENT_SIZE,
    dtype: torch.dtype = torch.float32,
    seed: int | None = None,
) -> tuple[nn.Sequential, nn.Sequential]:
    """Both players of the DCGAN: latents ``(n, latent_size)`` to images ``(n, colours, size, size)`` in [-1, 1].

    For 28 pixels these are the layers of TNNLS Table IV (sizes of the images between the layers)::

        G: deconvolutions   1 -> 2 -> 4 -> 9 -> 10 -> 12 -> 25 -> 28, then a 1x1 convolution and tanh
        D: convolutions     28 -> 25 -> 12 -> 10 -> 9 -> 4 -> 2 -> 1, then a linear layer, which gives the logit

    Each (de)convolution is followed by a sigmoid and by layer normalisation over height, width and channels of one
    image, with a gain and a bias for each channel, as in the authors' code. Table IV's last sigmoid is the loss's.
    For other sizes, GANs of the same kind that no paper has, of these images and back::

        64 pixels   1 -> 2 -> 4 -> 9 -> 10 -> 12 -> 14 -> 29 -> 30 -> 62 -> 64
        32 pixels   1 -> 2 -> 4 -> 9 -> 10 -> 12 -> 14 -> 29 -> 32
        8 pixels    1 -> 2 -> 4 -> 8

    Args:
        channels: h, of every layer of either player.
        image_size: 8, 28, 32 or 64 pixels.
        colours: of a pixel.
        latent_size: numbers in a latent.
        dtype: of the parameters.
        seed: of the kernels, Glorot uniform; by default they come from torch's global generator. Biases start at zero,
            gains at one.

    Raises:
        ValueError: an image size that is not there, or another size below 1.
    """
    if image_size not in _KERNELS_AND_STRIDES:
        raise ValueError(f"image_size must be {known_sizes()} pixels, got {image_size!r}")
    for name, size in (("channels", channels), ("colours", colours), ("latent_size", latent_size)):
        if not is_whole(size) or size < 1:
            raise ValueError(f"{name} must be a whole number >= 1, got {size!r}")
    layers = _KERNELS_AND_STRIDES[image_size]
    generator: list[nn.Module] = [nn.Unflatten(1, (latent_size, 1, 1))]
    discriminator: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):  # torch's own initialisation, replaced below, draws from it
        before = latent_size
        for kernel, stride in layers:
            generator += _block(Deconvolution(before, channels, kernel, stride), channels)
            before = channels
        generator += [Convolution(channels, colours, 1), nn.Tanh()]
        before = colours
        for kernel, stride in reversed(layers):
            discriminator += _block(Convolution(before, channels, kernel, stride), channels)
            before = channels
        discriminator += [nn.Flatten(), nn.Linear(channels, 1)]
    players = nn.Sequential(*generator).to(dtype), nn.Sequential(*discriminator).to(dtype)
    random = None if seed is None else torch.Generator().manual_seed(seed)
    for player in players:
        _initialise(player, random)
    return players


def known_sizes() -> str:
    """The image sizes that there are layers for, as a phrase."""
    *smaller, largest = sorted(_KERNELS_AND_STRIDES)
    return f"{', '.join(map(str, smaller))} or {largest}"


def _block(convolution: nn.Module, channels: int) -> list[nn.Module]:
    return [convolution, Sigmoid(), ImageNorm(channels)]


def _initialise(player: nn.Sequential, random: torch.Generator | None) -> None:
    for layer in player:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight, generator=random)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
