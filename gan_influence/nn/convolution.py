"""Convolutions as trilinear forms ``<g, conv(x, w)>``, whose three partial gradients are each other's derivatives.

On a CPU, images in float32 leave a convolution with their channels last in memory: torch convolves them up to five
times as fast so, and no layer after it has to lay them out anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gan_influence.nn import layouts

__all__ = ["Convolution", "Deconvolution"]


class Geometry(NamedTuple):
    """What makes a convolution besides its images and kernel. There is no padding and no dilation."""

    stride: tuple[int, ...]
    transposed: bool
    groups: int = 1


class Convolution(nn.Conv2d):
    """``nn.Conv2d(before, after, kernel, stride)``."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1):
        super().__init__(before, after, kernel, stride)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        return _Convolved.apply(images, self.weight, self.bias, Geometry(self.stride, False))


class Deconvolution(nn.ConvTranspose2d):
    """``nn.ConvTranspose2d(before, after, kernel, stride)``."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1):
        super().__init__(before, after, kernel, stride)

    def forward(  # type: ignore[override]  # no output_size: that is what the stride gives
        self, images: Float[Tensor, "n c h w"]
    ) -> Float[Tensor, "n c2 h2 w2"]:
        return _Convolved.apply(images, self.weight, self.bias, Geometry(self.stride, True))


def _convolved(x: Tensor, w: Tensor, b: Tensor | None, geometry: Geometry) -> Tensor:
    if x.ndim != 4:
        raise ValueError(f"images must be (n, channels, height, width), got shape {tuple(x.shape)}")
    if _is_pixelwise(w, geometry):
        y = layouts.to_pixels(x) @ w.flatten(1).T
        return layouts.to_images(y if b is None else y + b, x.shape)
    stride, transposed, groups = geometry
    return torch.convolution(
        layouts.laid_out(x), layouts.laid_out(w), b, stride, (0, 0), (1, 1), transposed, (0, 0), groups
    )


def _of_images(g: Tensor, w: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
    if _is_pixelwise(w, geometry):
        return layouts.to_images(layouts.to_pixels(g) @ w.flatten(1), x.shape)
    if w.shape[1] == 1 and layouts.channels_go_last(g) and not geometry.transposed and geometry.groups == 1:
        return _grey(g, w, x.shape[2:], geometry.stride)
    return _backward(g, x, w, geometry, [True, False, False])[0]


def _of_grey_images(g: Tensor, w: Tensor, size: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Of one channel, for which torch's own takes four times as long: a product, and its patches laid over another.

    One operation to torch, so that a step's recording writes nowhere: the images that are added up here are its own.
    """
    n, _, height, width = g.shape
    patches = (w.flatten(1).T @ layouts.to_pixels(g).T).view(w[0].numel(), n, height, width)
    (down, right), (pixels, row) = stride, (size[0] * size[1], size[1])
    images = _empty_grey_images(g, w, size, stride).zero_()
    for k, patch in enumerate(patches.unbind()):
        i, j = divmod(k, w.shape[3])
        images.as_strided(patch.shape, (pixels, down * row, right), i * row + j).add_(patch)
    return images


def _empty_grey_images(g: Tensor, w: Tensor, size: Sequence[int], stride: Sequence[int]) -> Tensor:
    """In the layout that the other operations of a convolution leave images in: see ``layouts.channels_last``."""
    height, width = size
    return g.new_empty_strided((len(g), 1, height, width), (height * width, 1, width, 1))


_grey = torch.library.custom_op(
    "gan_influence::of_grey_images",
    _of_grey_images,
    mutates_args=(),
    schema="(Tensor g, Tensor w, SymInt[] size, SymInt[] stride) -> Tensor",
)
_grey.register_fake(_empty_grey_images)


def _of_kernel(g: Tensor, x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
    if _is_pixelwise(w, geometry):
        return (layouts.to_pixels(g).T @ layouts.to_pixels(x)).view_as(w)
    return _backward(g, x, w, geometry, [False, True, False])[1]


def _backward(g: Tensor, x: Tensor, w: Tensor, geometry: Geometry, wanted: list[bool]) -> tuple[Tensor, ...]:
    g, x, w = map(layouts.laid_out, (g, x, w))
    stride, transposed, groups = geometry
    return torch.ops.aten.convolution_backward(
        g, x, w, None, stride, (0, 0), (1, 1), transposed, (0, 0), groups, wanted
    )


def _is_pixelwise(w: Tensor, geometry: Geometry) -> bool:
    """Of single pixels: on a CPU a matrix product is faster, two times and more."""
    return w[0, 0].numel() == 1 and geometry == Geometry((1, 1), False) and w.device.type == "cpu"


class _Convolved(torch.autograd.Function):
    """``conv(x, w) + b``, or without b."""

    @staticmethod
    def forward(x: Tensor, w: Tensor, b: Tensor | None, geometry: Geometry) -> Tensor:
        return _convolved(x, w, b, geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, Geometry], output: Tensor) -> None:
        x, w, _, ctx.geometry = inputs
        ctx.save_for_backward(x, w)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, w = ctx.saved_tensors
        needs_x, needs_w, needs_b, _ = ctx.needs_input_grad
        of_x = _OfImages.apply(g, w, x, ctx.geometry) if needs_x else None
        of_w = _OfKernel.apply(g, x, w, ctx.geometry) if needs_w else None
        return of_x, of_w, g.sum((0, 2, 3)) if needs_b else None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple, x: Tensor, w: Tensor, b: Tensor | None, geometry: Geometry
    ) -> tuple[Tensor, int]:
        return _of_models(_Convolved.apply, "ikbi", info, in_dims, (x, w, b), geometry)


class _OfImages(torch.autograd.Function):
    """``d <g, conv(x, w)> / dx``, in which x has but a shape."""

    @staticmethod
    def forward(g: Tensor, w: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
        return _of_images(g, w, x, geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Geometry], output: Tensor) -> None:
        g, w, _, ctx.geometry = inputs
        ctx.save_for_backward(g, w)

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        g, w = ctx.saved_tensors
        needs_g, needs_w, *_ = ctx.needs_input_grad
        of_g = _Convolved.apply(h, w, None, ctx.geometry) if needs_g else None
        return of_g, _OfKernel.apply(g, h, w, ctx.geometry) if needs_w else None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, g: Tensor, w: Tensor, x: Tensor, geometry: Geometry) -> tuple[Tensor, int]:
        return _of_models(_OfImages.apply, "ikii", info, in_dims, (g, w, x), geometry)


class _OfKernel(torch.autograd.Function):
    """``d <g, conv(x, w)> / dw``, in which w has but a shape."""

    @staticmethod
    def forward(g: Tensor, x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
        return _of_kernel(g, x, w, geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Geometry], output: Tensor) -> None:
        g, x, _, ctx.geometry = inputs
        ctx.save_for_backward(g, x)

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        g, x = ctx.saved_tensors
        needs_g, needs_x, *_ = ctx.needs_input_grad
        of_g = _Convolved.apply(x, h, None, ctx.geometry) if needs_g else None
        return of_g, _OfImages.apply(g, h, x, ctx.geometry) if needs_x else None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, g: Tensor, x: Tensor, w: Tensor, geometry: Geometry) -> tuple[Tensor, int]:
        return _of_models(_OfKernel.apply, "iikk", info, in_dims, (g, x, w), geometry)


def _of_models(
    function: Callable[..., Tensor],
    kinds: str,
    info: Any,
    in_dims: tuple,
    tensors: tuple[Tensor | None, ...],
    geometry: Geometry,
) -> tuple[Tensor, int]:
    """Several models' convolutions: on a GPU as one in groups, on a CPU faster one after the other.

    ``kinds`` tells what the arguments are, and last the result: images, kernel or bias.
    """
    models = info.batch_size
    stacked = [
        tensor if tensor is None else tensor.expand(models, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        for tensor, dim in zip(tensors, in_dims, strict=False)
    ]
    if all(tensor is None or tensor.device.type == "cpu" for tensor in stacked):
        apart = [[None] * models if tensor is None else tensor.unbind() for tensor in stacked]
        return torch.stack([function(*of_model, geometry) for of_model in zip(*apart, strict=True)]), 0
    return _in_groups(function, kinds, models, stacked, geometry), 0


def _in_groups(
    function: Callable[..., Tensor], kinds: str, models: int, stacked: list[Tensor | None], geometry: Geometry
) -> Tensor:
    """Images ``(models, n, c, h, w)`` as ``(n, models c, h, w)``; kernels and biases of all models in one."""
    merged = [
        None if one is None else one.movedim(0, 1).flatten(1, 2) if kind == "i" else one.flatten(0, 1)
        for kind, one in zip(kinds, stacked, strict=False)
    ]
    found = function(*merged, geometry._replace(groups=models * geometry.groups))
    if kinds[-1] == "k":
        return found.unflatten(0, (models, -1))
    return found.unflatten(1, (models, -1)).movedim(1, 0)
