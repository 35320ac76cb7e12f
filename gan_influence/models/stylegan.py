"""StyleGAN (Karras et al. 2019), as the published code of TNNLS VI-A3 trains it: all resolutions at once."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gan_influence.checks import check_whole
from gan_influence.models.styles import StyleGenerator, channels_of, made, resolutions
from gan_influence.nn.deviation import with_ones
from gan_influence.nn.equalised import (
    DoublingConvolution,
    EqualisedConvolution,
    EqualisedLinear,
    FusedDownsampling,
    FusedUpsampling,
    HalvingConvolution,
)
from gan_influence.nn.resampling import Filter
from gan_influence.nn.styles import AdaptiveNorm, ConstantInput, MappingNetwork, Noise, leaky

__all__ = ["StyleGANDiscriminator", "StyleGANGenerator", "stylegan"]

_CHANNELS = {4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128, 256: 64, 512: 32, 1024: 16}
_FUSED_FROM = 128  # pixels: there a convolution and the change of size are one
_NUMERATOR = sqrt(2)
_BLUR = (1, 2, 1)


def stylegan(
    resolution: int,
    *,
    colours: int = 3,
    style_size: int = 512,
    mapping_layers: int = 8,
    channels: int | Mapping[int, int] | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> tuple[StyleGANGenerator, StyleGANDiscriminator]:
    """Both players of StyleGAN: latents to images ``(n, colours, resolution, resolution)``, and these to logits.

    Sizes of the images between the layers, for 32 pixels::

        G: a learned constant 4x4, then 4 -> 8 -> 16 -> 32, and a convolution 1x1 to colours; no tanh
        D: a convolution 1x1 from colours, then 32 -> 16 -> 8 -> 4 -> 1, and a linear layer

    A block of the generator is a convolution 3x3 of images twice as large, blurred, and another 3x3, each followed by
    noise, a leaky rectifier (.2) and AdaIN; of the discriminator a convolution, the blur, and another, pooled. Where a
    block doubles to, or halves from, 128 pixels or more, one convolution of stride 2 does both. Weights are N(0, 1)
    times ``sqrt(2 / fan_in)``, at every call. As the published code has it, the discriminator's last block sees a
    channel of ones where Karras et al. have the minibatch's deviation, so that rows do not interact; there is no
    truncation and no fading in of resolutions.

    What is random in the generator comes with its latents: see :meth:`StyleGenerator.forward` and
    :func:`style_latents`. TNNLS freezes the mapping network: ``generator.mapping.requires_grad_(False)``.

    Args:
        resolution: pixels, a power of two from 8 to 1024.
        colours: of a pixel.
        style_size: numbers of a latent and of a style.
        mapping_layers: of the mapping network.
        channels: at most so many at any resolution, or a number for each of 4, 8, ... ``resolution``; by default the
            published ones, 512 up to 32 pixels, then half as many each time.
        dtype: of the parameters.
        seed: of the parameters.

    Raises:
        ValueError: another resolution; a size below 1; channels of other resolutions.
    """
    sizes = resolutions(resolution)
    for name, size in (("colours", colours), ("style_size", style_size), ("mapping_layers", mapping_layers)):
        check_whole(name, size)
    table = channels_of(channels, sizes, _CHANNELS)
    generator = StyleGANGenerator(table, colours, style_size, mapping_layers)
    return made((generator, StyleGANDiscriminator(table, colours)), dtype, seed)


class StyleGANGenerator(StyleGenerator):
    """Images of latents. :func:`stylegan` makes one; :class:`StyleGenerator` says what it takes.

    A layer, for mixing, is a block: i is 0 at 4 pixels, 1 at 8, and so on. Both noises of a block are one map.
    """

    def __init__(self, channels: Mapping[int, int], colours: int, style_size: int, mapping_layers: int):
        super().__init__()
        sizes = list(channels)
        self.style_size, self.layers, self.noise_sizes = style_size, len(sizes), tuple(sizes)
        self.mapping = MappingNetwork(style_size, mapping_layers, numerator=_NUMERATOR)
        befores = [None, *(channels[size] for size in sizes[:-1])]
        self.blocks = nn.ModuleList(
            _SynthesisBlock(before, channels[size], size, style_size)
            for before, size in zip(befores, sizes, strict=True)
        )
        self.to_rgb = EqualisedConvolution(channels[sizes[-1]], colours, 1, numerator=_NUMERATOR)

    def synthesis(
        self, styles: list[Float[Tensor, "n style_size"]], noise: list[Float[Tensor, "n 1 size size"] | None]
    ) -> Float[Tensor, "n colours size size"]:
        images = styles[0]
        for block, style, own in zip(self.blocks, styles, noise, strict=True):
            images = block(images, style, own)
        return self.to_rgb(images)


class _SynthesisBlock(nn.Module):
    """From images half as large, of ``before`` channels, to images with a style; the first begins with a constant."""

    def __init__(self, before: int | None, channels: int, size: int, style_size: int):
        super().__init__()
        self.conv1 = ConstantInput(channels) if before is None else _doubling(before, channels, size)
        self.noise1, self.noise2 = (Noise(channels, sqrt(2 / channels)) for _ in range(2))
        self.adain1, self.adain2 = (AdaptiveNorm(channels, style_size) for _ in range(2))
        self.conv2 = EqualisedConvolution(channels, channels, 3, padding=1, numerator=_NUMERATOR)

    def forward(
        self, images: Float[Tensor, "n before h w"], style: Float[Tensor, "n style_size"], noise: Tensor | None
    ) -> Float[Tensor, "n c size size"]:
        images = self.adain1(leaky(self.noise1(self.conv1(images), noise)), style)
        return self.adain2(leaky(self.noise2(self.conv2(images), noise)), style)


def _doubling(before: int, after: int, size: int) -> nn.Sequential:
    convolution = FusedUpsampling if size >= _FUSED_FROM else DoublingConvolution
    return nn.Sequential(convolution(before, after, numerator=_NUMERATOR), Filter(_BLUR, padding=1))


class StyleGANDiscriminator(nn.Module):
    """A logit for each image. :func:`stylegan` makes one."""

    def __init__(self, channels: Mapping[int, int], colours: int):
        super().__init__()
        sizes = sorted(channels, reverse=True)
        self.from_rgb = EqualisedConvolution(colours, channels[sizes[0]], 1, numerator=_NUMERATOR)
        self.blocks = nn.ModuleList(
            _HalvingBlock(channels[size], channels[half], size) for size, half in pairwise(sizes)
        )
        self.last = _LastBlock(channels[4])
        self.linear = EqualisedLinear(channels[4], 1, numerator=_NUMERATOR)

    def forward(self, images: Float[Tensor, "n colours size size"]) -> Float[Tensor, "n 1"]:
        images = leaky(self.from_rgb(images))
        for block in self.blocks:
            images = block(images)
        return self.linear(self.last(images))


class _HalvingBlock(nn.Module):
    """From images to images half as large."""

    def __init__(self, before: int, after: int, size: int):
        super().__init__()
        halving = FusedDownsampling if size >= _FUSED_FROM else HalvingConvolution
        self.conv1 = EqualisedConvolution(before, after, 3, padding=1, numerator=_NUMERATOR)
        self.blur = Filter(_BLUR, padding=1)
        self.conv2 = halving(after, after, numerator=_NUMERATOR)

    def forward(self, images: Float[Tensor, "n before size size"]) -> Float[Tensor, "n after size/2 size/2"]:
        return leaky(self.conv2(self.blur(leaky(self.conv1(images)))))


class _LastBlock(nn.Module):
    """Images 4x4, and a channel of ones, to one number a channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = EqualisedConvolution(channels + 1, channels, 3, padding=1, numerator=_NUMERATOR)
        self.conv2 = EqualisedConvolution(channels, channels, 4, numerator=_NUMERATOR)

    def forward(self, images: Float[Tensor, "n channels 4 4"]) -> Float[Tensor, "n channels"]:
        return leaky(self.conv2(leaky(self.conv1(with_ones(images))))).flatten(1)
