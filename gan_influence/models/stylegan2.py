"""StyleGAN2 (Karras et al. 2020), in the form of its common PyTorch port (TNNLS Fig. 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gan_influence.checks import check, check_whole
from gan_influence.models.styles import StyleGenerator, channels_of, made, resolutions
from gan_influence.nn.deviation import with_deviation, with_deviation_beside, with_ones
from gan_influence.nn.equalised import EqualisedConvolution, EqualisedLinear
from gan_influence.nn.resampling import Filter, checked
from gan_influence.nn.styles import ConstantInput, MappingNetwork, ModulatedConvolution, Noise, leaky

__all__ = ["ColoursOfStyle", "StyleGAN2Discriminator", "StyleGAN2Generator", "stylegan2"]

_CHANNELS = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32}
_GAIN = sqrt(2)  # of the leaky rectifier, so that it keeps the mean square
_RATE_OF_MAPPING = 0.01
_GROUP = 4


def stylegan2(
    resolution: int,
    *,
    colours: int = 3,
    style_size: int = 512,
    mapping_layers: int = 8,
    channels: int | Mapping[int, int] | None = None,
    blur: Sequence[float] = (1, 3, 3, 1),
    stddev: str = "constant",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> tuple[StyleGAN2Generator, StyleGAN2Discriminator]:
    """Both players of StyleGAN2: latents to images ``(n, colours, resolution, resolution)``, and these to logits.

    The generator's convolutions are modulated by the styles and demodulated, each followed by noise, a bias and a leaky
    rectifier (.2, times sqrt 2); every resolution adds its colours to those of the one below, doubled. A block of the
    discriminator adds a convolution 1x1 of its input, and is divided by sqrt 2. Weights are N(0, 1) / sqrt(fan_in), at
    every call; those of the mapping network move at a hundredth of the others' rate.

    What is random in the generator comes with its latents: see :meth:`StyleGenerator.forward` and
    :func:`style_latents`. A layer, for mixing, is a convolution or its successor's colours: at 32 pixels there are 8.

    Args:
        resolution: pixels, a power of two from 8 to 1024.
        colours: of a pixel.
        style_size: numbers of a latent and of a style.
        mapping_layers: of the mapping network.
        channels: at most so many at any resolution, or a number for each of 4, 8, ... ``resolution``; by default the
            published ones, 512 up to 64 pixels, then half as many each time.
        blur: taps of the filter around every change of size; an even number of them.
        stddev: what the discriminator's last block sees besides: ``"constant"``, a channel of ones, as the published
            code of TNNLS has it in StyleGAN; or ``"group"``, as Karras et al., the deviation within each group of up to
            4 rows of a call. Then rows interact, and ``gi.train`` refuses the game, for a row has no term of its own
            that a removal would leave out; with ``gi.Game(..., rows_interact=True)`` it stays in the others' terms. A
            cost of one's own can give each row generated companions instead, see :class:`StyleGAN2Discriminator`.
        dtype: of the parameters.
        seed: of the parameters.

    Raises:
        ValueError: another resolution; a size below 1; channels of other resolutions; an odd number of taps; another
            name.
    """
    sizes = resolutions(resolution)
    for name, size in (("colours", colours), ("style_size", style_size), ("mapping_layers", mapping_layers)):
        check_whole(name, size)
    check(stddev in ("constant", "group"), "stddev", "'constant' or 'group'", stddev)
    taps = checked(blur)
    check(len(taps) % 2 == 0, "blur", "an even number of taps, such as (1, 3, 3, 1)", blur)
    table = channels_of(channels, sizes, _CHANNELS)
    generator = StyleGAN2Generator(table, colours, style_size, mapping_layers, taps)
    return made((generator, StyleGAN2Discriminator(table, colours, taps, stddev)), dtype, seed)


class StyleGAN2Generator(StyleGenerator):
    """Images of latents. :func:`stylegan2` makes one; :class:`StyleGenerator` says what it takes."""

    def __init__(
        self,
        channels: Mapping[int, int],
        colours: int,
        style_size: int,
        mapping_layers: int,
        blur: tuple[float, ...],
    ):
        super().__init__()
        sizes = list(channels)
        self.style_size, self.layers = style_size, 2 * len(sizes)
        self.noise_sizes = (4, *(size for size in sizes[1:] for _ in range(2)))
        self.mapping = MappingNetwork(style_size, mapping_layers, numerator=1.0, rate=_RATE_OF_MAPPING, gain=_GAIN)
        self.input = ConstantInput(channels[4])
        self.convs = nn.ModuleList([_StyledConvolution(channels[4], channels[4], style_size)])
        for smaller, size in pairwise(sizes):
            self.convs.append(_StyledConvolution(channels[smaller], channels[size], style_size, blur))
            self.convs.append(_StyledConvolution(channels[size], channels[size], style_size))
        self.to_rgbs = nn.ModuleList(ColoursOfStyle(channels[size], colours, style_size) for size in sizes)
        self.larger = Filter(blur, stride=2, padding=len(blur) // 2 - 1, transposed=True, factor=4)

    def synthesis(
        self, styles: list[Float[Tensor, "n style_size"]], noise: list[Float[Tensor, "n 1 size size"] | None]
    ) -> Float[Tensor, "n colours size size"]:
        images = self.convs[0](self.input(styles[0]), styles[0], noise[0])
        colours = self.to_rgbs[0](images, styles[1])
        for k, to_rgb in enumerate(self.to_rgbs[1:]):
            for i in (2 * k + 1, 2 * k + 2):
                images = self.convs[i](images, styles[i], noise[i])
            colours = self.larger(colours) + to_rgb(images, styles[2 * k + 3])
        return colours


class _StyledConvolution(nn.Module):
    """A modulated convolution, noise, a bias and the rectifier; with a blur it doubles the size."""

    def __init__(self, before: int, after: int, style_size: int, blur: tuple[float, ...] | None = None):
        super().__init__()
        self.conv = ModulatedConvolution(before, after, 3, style_size, doubles=blur is not None)
        self.blur = None if blur is None else Filter(blur, padding=len(blur) // 2 - 1, factor=4)
        self.noise = Noise(1)
        self.bias = nn.Parameter(torch.zeros(after))

    def forward(
        self, images: Float[Tensor, "n before h w"], style: Float[Tensor, "n style_size"], noise: Tensor | None
    ) -> Float[Tensor, "n after h2 w2"]:
        images = self.conv(images, style)
        if self.blur is not None:
            images = self.blur(images)
        return _rectified(self.noise(images, noise), self.bias)


class ColoursOfStyle(nn.Module):
    """A modulated convolution of single pixels to colours, and a bias."""

    def __init__(self, channels: int, colours: int, style_size: int):
        super().__init__()
        self.conv = ModulatedConvolution(channels, colours, 1, style_size, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(colours))

    def forward(
        self, images: Float[Tensor, "n c h w"], style: Float[Tensor, "n style_size"]
    ) -> Float[Tensor, "n colours h w"]:
        return self.conv(images, style) + self.bias[:, None, None]


class StyleGAN2Discriminator(nn.Module):
    """A logit for each image. :func:`stylegan2` makes one.

    With ``stddev="group"`` it may be called with companions, ``discriminator(images, companions)``: generated images,
    a multiple of 4 and as many as there are images or more. Image i is then seen in a group of itself and three of
    them, those that companion i would be grouped with, and real rows do not interact.

    Attributes:
        stddev: what the last block sees besides, ``"constant"`` or ``"group"``.

    Raises:
        ValueError: rows or companions fill no groups; companions where the last block sees a constant.
    """

    def __init__(self, channels: Mapping[int, int], colours: int, blur: tuple[float, ...], stddev: str):
        super().__init__()
        sizes = sorted(channels, reverse=True)
        self.stddev = stddev
        self.from_rgb = EqualisedConvolution(colours, channels[sizes[0]], 1)
        self.blocks = nn.ModuleList(
            _ResidualBlock(channels[size], channels[half], blur) for size, half in pairwise(sizes)
        )
        self.last = EqualisedConvolution(channels[4] + 1, channels[4], 3, padding=1)
        self.dense = EqualisedLinear(16 * channels[4], channels[4])
        self.linear = EqualisedLinear(channels[4], 1)

    def forward(
        self,
        images: Float[Tensor, "n colours size size"],
        companions: Float[Tensor, "m colours size size"] | None = None,
    ) -> Float[Tensor, "n 1"]:
        images = self._halved(images)
        if companions is not None:
            if self.stddev == "constant":
                raise ValueError(
                    "companions make groups, which a discriminator with stddev='constant' does not look at"
                )
            images = with_deviation_beside(images, self._halved(companions), _GROUP)
        elif self.stddev == "constant":
            images = with_ones(images)
        else:
            images = with_deviation(images, _GROUP)
        return self.linear(_rectified(self.dense(_rectified(self.last(images)).flatten(1))))

    def _halved(self, images: Float[Tensor, "n colours size size"]) -> Float[Tensor, "n c 4 4"]:
        images = _rectified(self.from_rgb(images))
        for block in self.blocks:
            images = block(images)
        return images


class _ResidualBlock(nn.Module):
    def __init__(self, before: int, after: int, blur: tuple[float, ...]):
        super().__init__()
        self.conv1 = EqualisedConvolution(before, before, 3, padding=1)
        self.blur = Filter(blur, padding=len(blur) // 2)
        self.conv2 = EqualisedConvolution(before, after, 3, stride=2)
        self.smaller = Filter(blur, padding=len(blur) // 2 - 1, stride=2)
        self.skip = EqualisedConvolution(before, after, 1, bias=False)

    def forward(self, images: Float[Tensor, "n before size size"]) -> Float[Tensor, "n after size/2 size/2"]:
        halved = _rectified(self.conv2(self.blur(_rectified(self.conv1(images)))))
        return (halved + self.skip(self.smaller(images))) * sqrt(0.5)


def _rectified(x: Tensor, bias: Tensor | None = None) -> Tensor:
    return leaky(x if bias is None else x + bias[:, None, None]) * _GAIN
