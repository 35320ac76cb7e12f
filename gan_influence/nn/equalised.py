"""Equalised rates: parameters start as N(0, 1) and are scaled where they are used (Karras et al. 2018, section 4.1).

So every layer's weights move by as much, relative to their size, with an optimiser that divides by a gradient's size.
"""

from __future__ import annotations

from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from gan_influence.nn.convolution import convolved

__all__ = [
    "DoublingConvolution",
    "EqualisedConvolution",
    "EqualisedLinear",
    "FusedDownsampling",
    "FusedUpsampling",
    "HalvingConvolution",
]


class _Equalised(nn.Module):
    """A ``weight (after, before, ...)`` that counts as ``weight * gain``, and a bias that counts as ``bias * rate``.

    ``gain = rate * numerator / sqrt(fan_in)``, with a weight that starts as N(0, 1) / rate.
    """

    def __init__(
        self, shape: tuple[int, ...], numerator: float, rate: float = 1.0, bias: bool = True, bias_start: float = 0.0
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(shape[0])) if bias else None
        self.rate, self.bias_start = float(rate), float(bias_start)
        self.gain = self.rate * numerator / sqrt(self.weight[0].numel())

    def start(self, random: torch.Generator) -> None:
        """Fresh weights, and the bias that it starts with."""
        with torch.no_grad():
            self.weight.normal_(generator=random).div_(self.rate)
            if self.bias is not None:
                self.bias.fill_(self.bias_start)

    @property
    def scaled_bias(self) -> Tensor | None:
        return self.bias if self.bias is None or self.rate == 1 else self.bias * self.rate

    def extra_repr(self) -> str:
        after, before, *kernel = self.weight.shape
        return f"{before}, {after}, {f'kernel={kernel[0]}, ' if kernel else ''}gain={self.gain:.4g}"


class EqualisedLinear(_Equalised):
    """``x (W gain)^T + rate b``.

    Args:
        before, after: numbers of a row, before and after it.
        numerator: gain = rate numerator / sqrt(before): sqrt 2 in StyleGAN, 1 in StyleGAN2.
        rate: of learning, relative to the other layers'.
        bias_start: what every bias starts with.
    """

    bias: nn.Parameter

    def __init__(self, before: int, after: int, *, numerator: float = 1.0, rate: float = 1.0, bias_start: float = 0.0):
        super().__init__((after, before), numerator, rate, True, bias_start)

    def forward(self, rows: Float[Tensor, "n before"]) -> Float[Tensor, "n after"]:
        return linear(rows, self.weight * self.gain, self.scaled_bias)


class EqualisedConvolution(_Equalised):
    """A convolution with ``W gain``, with ``padding`` zeros around the images and every ``stride``-th pixel kept.

    Args:
        before, after: channels, before and after it.
        kernel: pixels, along either side.
        padding, stride: of the convolution.
        numerator: gain = numerator / sqrt(before kernel^2).
        bias: is there one?
    """

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int,
        *,
        padding: int = 0,
        stride: int = 1,
        numerator: float = 1.0,
        bias: bool = True,
    ):
        super().__init__((after, before, kernel, kernel), numerator, bias=bias)
        self.padding, self.stride = padding, stride

    def forward(self, images: Float[Tensor, "n before h w"]) -> Float[Tensor, "n after h2 w2"]:
        return convolved(images, self.weight * self.gain, self.bias, stride=self.stride, padding=self.padding)


class DoublingConvolution(EqualisedConvolution):
    """Every pixel four times, then the convolution 3x3 with a pixel of padding.

    Computed as one transposed convolution of stride 2, by the sum of the kernel's four shifts, turned: a pixel takes 4
    products for each pair of channels, where a convolution of the doubled images takes 9.
    """

    def __init__(self, before: int, after: int, *, numerator: float = 1.0):
        super().__init__(before, after, 3, padding=1, numerator=numerator)

    def forward(self, images: Float[Tensor, "n before h w"]) -> Float[Tensor, "n after 2h 2w"]:
        kernel = 4 * _mean_of_shifts(self.weight * self.gain).flip((2, 3)).transpose(0, 1)
        return convolved(images, kernel, self.bias, stride=2, padding=1, transposed=True)


class HalvingConvolution(EqualisedConvolution):
    """The convolution 3x3 with a pixel of padding, then the mean of each four pixels.

    Computed as one convolution of stride 2, by the mean of the kernel's four shifts: with 16 products for four pixels
    and each pair of channels, where a convolution that is pooled takes 36.
    """

    def __init__(self, before: int, after: int, *, numerator: float = 1.0):
        super().__init__(before, after, 3, padding=1, numerator=numerator)

    def forward(self, images: Float[Tensor, "n before h w"]) -> Float[Tensor, "n after h/2 w/2"]:
        return convolved(images, _mean_of_shifts(self.weight * self.gain), self.bias, stride=2, padding=1)


class FusedUpsampling(_Equalised):
    """Twice the size and a convolution 3x3 in one: transposed, with stride 2 and the mean of four shifted kernels."""

    def __init__(self, before: int, after: int, *, numerator: float):
        super().__init__((after, before, 3, 3), numerator)

    def forward(self, images: Float[Tensor, "n before h w"]) -> Float[Tensor, "n after 2h 2w"]:
        kernel = _mean_of_shifts(self.weight * self.gain).transpose(0, 1)
        return convolved(images, kernel, self.bias, stride=2, padding=1, transposed=True)


class FusedDownsampling(_Equalised):
    """A convolution 3x3 and half the size in one: with stride 2 and the mean of four shifted kernels."""

    def __init__(self, before: int, after: int, *, numerator: float):
        super().__init__((after, before, 3, 3), numerator)

    def forward(self, images: Float[Tensor, "n before h w"]) -> Float[Tensor, "n after h/2 w/2"]:
        return convolved(images, _mean_of_shifts(self.weight * self.gain), self.bias, stride=2, padding=1)


def _mean_of_shifts(kernel: Float[Tensor, "after before k k"]) -> Float[Tensor, "after before k+1 k+1"]:
    wide = pad(kernel, (1, 1, 1, 1))
    return (wide[..., 1:, 1:] + wide[..., :-1, 1:] + wide[..., 1:, :-1] + wide[..., :-1, :-1]) / 4
