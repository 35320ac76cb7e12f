"""Convolutions as trilinear forms ``<g, conv(x, w)>``, whose three partial gradients are each other's derivatives.

On a CPU, images in float32 leave a convolution with their channels last in memory: torch convolves them up to five
times as fast so, and no layer after it has to lay them out anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gan_influence.nn import layouts

__all__ = ["Convolution", "Deconvolution", "convolved"]


class Geometry(NamedTuple):
    """What makes a convolution besides its images and kernel. There is no dilation."""

    stride: tuple[int, ...]
    transposed: bool
    groups: int = 1
    padding: tuple[int, ...] = (0, 0)


class Convolution(nn.Conv2d):
    """``nn.Conv2d(before, after, kernel, stride)``."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1):
        super().__init__(before, after, kernel, stride)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        return _Partial.apply(None, images, self.weight, self.bias, _G, Geometry(self.stride, False))


class Deconvolution(nn.ConvTranspose2d):
    """``nn.ConvTranspose2d(before, after, kernel, stride)``."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1):
        super().__init__(before, after, kernel, stride)

    def forward(  # type: ignore[override]  # no output_size: that is what the stride gives
        self, images: Float[Tensor, "n c h w"]
    ) -> Float[Tensor, "n c2 h2 w2"]:
        return _Partial.apply(None, images, self.weight, self.bias, _G, Geometry(self.stride, True))


def convolved(
    images: Float[Tensor, "n c h w"],
    kernel: Float[Tensor, "c2 c_group k k"],
    bias: Float[Tensor, " c2"] | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    transposed: bool = False,
    groups: int = 1,
) -> Float[Tensor, "n c2 h2 w2"]:
    """``torch.nn.functional.conv2d``, or ``conv_transpose2d``, of a kernel that is computed.

    Args:
        images: to convolve.
        kernel: ``(before, after / groups, k, k)`` where it is transposed.
        bias: of each channel.
        stride, padding, groups: as torch has them.
        transposed: is it the transposed one?
    """
    geometry = Geometry((stride, stride), transposed, groups, (padding, padding))
    return _Partial.apply(None, images, kernel, bias, _G, geometry)


def _convolved(x: Tensor, w: Tensor, b: Tensor | None, geometry: Geometry) -> Tensor:
    if x.ndim != 4:
        raise ValueError(f"images must be (n, channels, height, width), got shape {tuple(x.shape)}")
    if _is_pixelwise(w, geometry):
        y = layouts.to_pixels(x) @ w.flatten(1).T
        return layouts.to_images(y if b is None else y + b, x.shape)
    stride, transposed, groups, padding = geometry
    return torch.convolution(
        layouts.laid_out(x), layouts.laid_out(w), b, stride, padding, (1, 1), transposed, (0, 0), groups
    )


def _of_images(g: Tensor, x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
    if _is_pixelwise(w, geometry):
        return layouts.to_images(layouts.to_pixels(g) @ w.flatten(1), x.shape)
    if w.shape[1] == 1 and layouts.channels_go_last(g) and geometry[1:] == (False, 1, (0, 0)):
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
    stride, transposed, groups, padding = geometry
    return torch.ops.aten.convolution_backward(
        g, x, w, None, stride, padding, (1, 1), transposed, (0, 0), groups, wanted
    )


def _is_pixelwise(w: Tensor, geometry: Geometry) -> bool:
    """Of single pixels: on a CPU a matrix product is faster, two times and more."""
    return w[0, 0].numel() == 1 and geometry == Geometry((1, 1), False) and w.device.type == "cpu"


_G, _X, _W = range(3)
"""What a partial gradient is by."""


class _Partial(torch.autograd.Function):
    """A partial gradient of ``<g, conv(x, w) + b>``, by g, x or w, which has but a shape then; by g it is all of it.

    Its own gradient puts the cotangent in the place of what it is by, and is by one of the others.
    """

    @staticmethod
    def forward(g: Tensor | None, x: Tensor, w: Tensor, b: Tensor | None, by: int, geometry: Geometry) -> Tensor:
        if g is None:
            return _convolved(x, w, b, geometry)
        return (_of_images if by == _X else _of_kernel)(g, x, w, geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        *form, _, ctx.by, ctx.geometry = inputs
        ctx.save_for_backward(*(one for k, one in enumerate(form) if k != ctx.by))

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, ...]:
        form = list(ctx.saved_tensors)
        form.insert(ctx.by, h)
        g, x, w = form
        needs_g, needs_x, needs_w, needs_b = (k != ctx.by and need for k, need in enumerate(ctx.needs_input_grad[:4]))
        return (
            _Partial.apply(None, x, w, None, _G, ctx.geometry) if needs_g else None,
            _Partial.apply(g, x, w, None, _X, ctx.geometry) if needs_x else None,
            _Partial.apply(g, x, w, None, _W, ctx.geometry) if needs_w else None,
            g.sum((0, 2, 3)) if needs_b else None,
            None,
            None,
        )

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple, g: Tensor | None, x: Tensor, w: Tensor, b: Tensor | None, by: int, geometry: Geometry
    ) -> tuple[Tensor, int]:
        return _of_models(info.batch_size, in_dims, (g, x, w, b), by, geometry), 0


_KINDS = "iikb"
"""What g, x, w and b are: images, kernel or bias; and so is the gradient by each."""


def _of_models(models: int, in_dims: tuple, tensors: tuple[Tensor | None, ...], by: int, geometry: Geometry) -> Tensor:
    """Several models' convolutions: on a GPU as one in groups, on a CPU faster one after the other."""
    stacked = [
        tensor if tensor is None else tensor.expand(models, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        for tensor, dim in zip(tensors, in_dims, strict=False)
    ]
    if _on_a_cpu(stacked):
        apart = [[None] * models if tensor is None else tensor.unbind() for tensor in stacked]
        return torch.stack([_Partial.apply(*of_model, by, geometry) for of_model in zip(*apart, strict=True)])
    return _in_groups(models, stacked, by, geometry)


def _on_a_cpu(tensors: list[Tensor | None]) -> bool:
    return all(tensor is None or tensor.device.type == "cpu" for tensor in tensors)


def _in_groups(models: int, stacked: list[Tensor | None], by: int, geometry: Geometry) -> Tensor:
    """Images ``(models, n, c, h, w)`` as ``(n, models c, h, w)``; kernels and biases of all models in one."""
    merged = [
        None if one is None else one.movedim(0, 1).flatten(1, 2) if kind == "i" else one.flatten(0, 1)
        for kind, one in zip(_KINDS, stacked, strict=True)
    ]
    found = _Partial.apply(*merged, by, geometry._replace(groups=models * geometry.groups))
    if by == _W:
        return found.unflatten(0, (models, -1))
    return found.unflatten(1, (models, -1)).movedim(1, 0)
