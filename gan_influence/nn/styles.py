"""What a style-based generator is made of: the mapping network, noise, AdaIN and modulated convolutions."""

from __future__ import annotations

from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, linear

from gan_influence.nn.convolution import convolved
from gan_influence.nn.equalised import EqualisedConvolution, EqualisedLinear

__all__ = ["AdaptiveNorm", "ConstantInput", "MappingNetwork", "ModulatedConvolution", "Noise", "leaky", "started"]

_SLOPE = 0.2


def leaky(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """x, a fifth of it where it is negative."""
    return leaky_relu(x, _SLOPE)


def started(module: nn.Module, random: torch.Generator) -> None:
    """Fresh parameters of all layers in it that say how they start; a layer's own parts come before it."""

    def begin(part: nn.Module) -> None:
        start = getattr(part, "start", None)
        if start is not None:
            start(random)

    module.apply(begin)


class MappingNetwork(nn.ModuleList):
    """From latents z to styles w: z of mean square 1, then linear layers with leaky ones after them.

    Args:
        size: of a latent and of a style.
        layers: how many.
        numerator, rate: of the linear layers.
        gain: what each layer's output is multiplied by.
    """

    def __init__(self, size: int, layers: int, *, numerator: float, rate: float = 1.0, gain: float = 1.0):
        super().__init__(EqualisedLinear(size, size, numerator=numerator, rate=rate) for _ in range(layers))
        self.gain = gain

    def forward(self, latents: Float[Tensor, "n size"]) -> Float[Tensor, "n size"]:
        rows = latents * (latents.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for layer in self:
            rows = leaky(layer(rows)) * self.gain if self.gain != 1 else leaky(layer(rows))
        return rows


class ConstantInput(nn.Module):
    """The images 4x4 that a generator begins with: learned, and the same for each of the rows that it is given."""

    def __init__(self, channels: int):
        super().__init__()
        self.input = nn.Parameter(torch.empty(1, channels, 4, 4))

    def start(self, random: torch.Generator) -> None:
        """N(0, 1)."""
        nn.init.normal_(self.input, generator=random)

    def forward(self, rows: Float[Tensor, "n *any"]) -> Float[Tensor, "n channels 4 4"]:
        return self.input.expand(len(rows), -1, -1, -1)


class Noise(nn.Module):
    """``x + weight gain noise``: one map of noise for all channels, with a weight for each of them or for all.

    Args:
        weights: how many.
        gain: of the weights, which start at 0.
    """

    def __init__(self, weights: int, gain: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(weights))
        self.gain = gain

    def forward(
        self, images: Float[Tensor, "n c h w"], noise: Float[Tensor, "n 1 h w"] | None
    ) -> Float[Tensor, "n c h w"]:
        return images if noise is None else images + (self.weight * self.gain)[:, None, None] * noise


class AdaptiveNorm(nn.Module):
    """AdaIN: each channel of each image to mean 0 and variance 1, then ``gamma x + beta`` with both from the style."""

    eps = 1e-5

    def __init__(self, channels: int, style_size: int):
        super().__init__()
        self.style = EqualisedLinear(style_size, 2 * channels, numerator=sqrt(2))

    def start(self, random: torch.Generator) -> None:
        """Gamma starts around 1, beta around 0."""
        nn.init.ones_(self.style.bias[: len(self.style.bias) // 2])

    def forward(self, images: Float[Tensor, "n c h w"], style: Float[Tensor, "n size"]) -> Float[Tensor, "n c h w"]:
        gamma, beta = self.style(style)[:, :, None, None].chunk(2, 1)
        centred = images - images.mean((2, 3), keepdim=True)
        r = (centred.square().mean((2, 3), keepdim=True) + self.eps).rsqrt()
        return torch.addcmul(beta, gamma * r, centred)


class ModulatedConvolution(EqualisedConvolution):
    """A convolution whose kernel each row scales by its style (Karras et al. 2020, eq. 1 and 3).

    With ``s = style A^T + b`` a row convolves with ``W' = gain W s`` (along the channels before it), demodulated with
    ``W' / sqrt(sum over all but the channels after it W'^2 + 1e-8)``. Both are the same for all pixels: so the images
    are scaled by s before one convolution of all rows, and by the demodulation after it.

    Args:
        before, after, kernel: of the convolution, which keeps the size of the images.
        style_size: of a style.
        demodulate: is it demodulated?
        doubles: the transposed convolution with stride 2, from h pixels to 2 h + 1.
    """

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int,
        style_size: int,
        *,
        demodulate: bool = True,
        doubles: bool = False,
    ):
        super().__init__(before, after, kernel, padding=0 if doubles else kernel // 2, bias=False)
        self.modulation = EqualisedLinear(style_size, before, bias_start=1.0)
        self.demodulate, self.doubles = demodulate, doubles

    def forward(  # type: ignore[override]
        self, images: Float[Tensor, "n before h w"], style: Float[Tensor, "n size"]
    ) -> Float[Tensor, "n after h2 w2"]:
        s, kernel = self.modulation(style), self.weight * self.gain
        scaled = images * s[:, :, None, None]
        if self.doubles:
            result = convolved(scaled, kernel.transpose(0, 1), stride=2, transposed=True)
        else:
            result = convolved(scaled, kernel, padding=self.padding)
        if not self.demodulate:
            return result
        size = linear(s.square(), kernel.square().sum((2, 3)))
        return result * (size + 1e-8).rsqrt()[:, :, None, None]
