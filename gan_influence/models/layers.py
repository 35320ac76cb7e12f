"""Layers whose second derivatives are written out. They compute what torch's own layers compute.

A sweep differentiates a step of training, that is the first derivative, once more. There autograd transposes whole
batches for a convolution, and takes dozens of small operations for a normalisation. Here a convolution is a trilinear
form ``<g, conv(x, w)>``, whose three partial gradients are each other's derivatives, the sigmoid's second derivative
takes two passes over the data, and the normalisation's five.

On a CPU, images in float32 leave a convolution with their channels last in memory: torch convolves them up to five
times as fast so, and no layer after it has to lay them out anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Convolution", "Deconvolution", "ImageNorm", "Sigmoid"]


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
        y = _pixels(x) @ w.flatten(1).T
        return _images(y if b is None else y + b, x.shape)
    stride, transposed, groups = geometry
    return torch.convolution(_laid_out(x), _laid_out(w), b, stride, (0, 0), (1, 1), transposed, (0, 0), groups)


def _of_images(g: Tensor, w: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
    if _is_pixelwise(w, geometry):
        return _images(_pixels(g) @ w.flatten(1), x.shape)
    if w.shape[1] == 1 and _channels_go_last(g) and not geometry.transposed and geometry.groups == 1:
        return _grey(g, w, x.shape[2:], geometry.stride)
    return _backward(g, x, w, geometry, [True, False, False])[0]


def _of_grey_images(g: Tensor, w: Tensor, size: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Of one channel, for which torch's own takes four times as long: a product, and its patches laid over another.

    One operation to torch, so that a step's recording writes nowhere: the images that are added up here are its own.
    """
    n, _, height, width = g.shape
    patches = (w.flatten(1).T @ _pixels(g).T).view(w[0].numel(), n, height, width)
    (down, right), (pixels, row) = stride, (size[0] * size[1], size[1])
    images = _empty_grey_images(g, w, size, stride).zero_()
    for k, patch in enumerate(patches.unbind()):
        i, j = divmod(k, w.shape[3])
        images.as_strided(patch.shape, (pixels, down * row, right), i * row + j).add_(patch)
    return images


def _empty_grey_images(g: Tensor, w: Tensor, size: Sequence[int], stride: Sequence[int]) -> Tensor:
    """In the layout in which the other operations of a convolution leave their images: see ``_channels_last``."""
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
        return (_pixels(g).T @ _pixels(x)).view_as(w)
    return _backward(g, x, w, geometry, [False, True, False])[1]


def _backward(g: Tensor, x: Tensor, w: Tensor, geometry: Geometry, wanted: list[bool]) -> tuple[Tensor, ...]:
    g, x, w = map(_laid_out, (g, x, w))
    stride, transposed, groups = geometry
    return torch.ops.aten.convolution_backward(
        g, x, w, None, stride, (0, 0), (1, 1), transposed, (0, 0), groups, wanted
    )


def _is_pixelwise(w: Tensor, geometry: Geometry) -> bool:
    """Of single pixels: on a CPU a matrix product is faster, two times and more."""
    return w[0, 0].numel() == 1 and geometry == Geometry((1, 1), False) and w.device.type == "cpu"


def _channels_go_last(images: Tensor) -> bool:
    """Does torch convolve such images faster with their channels last? Up to five times on a CPU, in float32."""
    return images.device.type == "cpu" and images.dtype == torch.float32


def _laid_out(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """The same images, or kernels, in the memory layout in which they are convolved fastest."""
    return _channels_last(images) if _channels_go_last(images) else _channels_first(images)


def _channels_last(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Also by their strides, from which torch tells the layout and which a dimension of size 1 leaves open."""
    _, channels, height, width = images.shape
    strides = height * width * channels, 1, width * channels, channels
    if images.stride() == strides:
        return images
    return images.contiguous(memory_format=torch.channels_last).as_strided(images.shape, strides)


def _channels_first(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Also by their strides: the fake tensors that steps are recorded with may report others where a size is 1."""
    _, channels, height, width = images.shape
    strides = channels * height * width, height * width, width, 1
    return images if images.stride() == strides else images.contiguous().as_strided(images.shape, strides)


def _pixels(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n_h_w c"]:
    return images.permute(0, 2, 3, 1).reshape(-1, images.shape[1])


def _images(pixels: Float[Tensor, "n_h_w c"], like: torch.Size) -> Float[Tensor, "n c h w"]:
    n, _, height, width = like
    return pixels.view(n, height, width, pixels.shape[1]).permute(0, 3, 1, 2)


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


class Sigmoid(nn.Sigmoid):
    """``s = 1 / (1 + exp(-x))``, with ``s'' = s' (1 - 2 s)`` in two passes."""

    def forward(self, x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        return _Squashed.apply(x)


class _Squashed(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.sigmoid(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return _SquashedBack.apply(g, *ctx.saved_tensors)


class _SquashedBack(torch.autograd.Function):
    """``g s (1 - s)``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(g: Tensor, s: Tensor) -> Tensor:
        return torch.ops.aten.sigmoid_backward(g, s)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor, Tensor]:
        g, s = ctx.saved_tensors
        product = h * g
        return _SquashedBack.apply(h, s), torch.addcmul(product, product, s, value=-2)


class ImageNorm(nn.GroupNorm):
    """``nn.GroupNorm(1, channels)``: each image to mean 0 and variance 1, then a gain and a bias for each channel.

    Layer normalisation over height, width and channels, as in the authors' code.
    """

    def __init__(self, channels: int):
        super().__init__(1, channels)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return _Normalised.apply(images, self.weight, self.bias, self.eps)[0]


def _normalised(x: Tensor, w: Tensor, b: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    n, channels, *size = x.shape
    return torch.native_group_norm(x, w, b, n, channels, size[0] * size[1], 1, eps)


class _Normalised(torch.autograd.Function):
    """``w x^ + b`` with ``x^ = (x - m) r`` of each image, ``r = (var x + eps)^(-1/2)``; and the m and the r."""

    @staticmethod
    def forward(x: Tensor, w: Tensor, b: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        x = _dense(x)
        if x.is_contiguous():
            return _normalised(x, w, b, eps)
        # Of images with their channels last torch takes the variance as mean square less squared mean, which loses
        # digits; but not where the mean is zero.
        mean = x.mean((1, 2, 3), keepdim=True)
        y, remainder, r = _normalised(x - mean, w, b, eps)
        return y, mean.flatten(1) + remainder, r

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float], outputs: tuple[Tensor, ...]) -> None:
        x, w, _, ctx.eps = inputs
        _, mean, r = outputs
        ctx.mark_non_differentiable(mean, r)
        ctx.save_for_backward(x, w, mean, r)

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        return *_PulledBack.apply(g, *ctx.saved_tensors, ctx.eps), None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple, x: Tensor, w: Tensor, b: Tensor, eps: float
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """All models' images normalised as one batch, then each model's gains."""
        x, w, b = (
            one.expand(info.batch_size, *one.shape) if dim is None else one.movedim(dim, 0)
            for one, dim in zip((x, w, b), in_dims, strict=False)
        )
        one = x.new_ones(x.shape[2])
        merged = _Normalised.apply(x.flatten(0, 1), one, torch.zeros_like(one), eps)
        standard, mean, r = (part.unflatten(0, x.shape[:2]) for part in merged)
        gains, biases = w[:, None, :, None, None], b[:, None, :, None, None]
        return (torch.addcmul(biases, standard, gains), mean, r), (0, 0, 0)


class _PulledBack(torch.autograd.Function):
    """The cotangents of x, w and b, from that of the normalised images, g.

    With L numbers in an image and means over them, ``of_x = B(w g)``, ``of_w = sum g x^`` and ``of_b = sum g``, where
    ``B(g) = r (g - mean g - x^ mean(g x^))``. Given the cotangents h, p and q of these, with ``a = cov(w g, h)``,
    ``b = mean(w g x^)``, ``c = mean(h x^)``::

        d/dg = w B(h) + p x^ + q                      d/dw = sum g B(h)
        d/dx = B(p g) - r^2 ((a - 3 b c) x^ + c (w g - mean w g) + b (h - mean h))
    """

    @staticmethod
    def forward(g: Tensor, x: Tensor, w: Tensor, mean: Tensor, r: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        n, channels, *size = x.shape
        x = _dense(x)
        return torch.ops.aten.native_group_norm_backward(
            _like(x, g), x, mean, r, w, n, channels, size[0] * size[1], 1, [True, True, True]
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, outputs: tuple[Tensor, ...]) -> None:
        *tensors, ctx.eps = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, h: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        g, x, w, mean, r = ctx.saved_tensors
        size = x[0].numel()
        if torch.is_grad_enabled():  # a third derivative by x also goes through its mean and its r
            variance, mean = (one.flatten(1) for one in torch.var_mean(x, (1, 2, 3), correction=0, keepdim=True))
            r = (variance + ctx.eps).rsqrt()
        flat_g, flat_x, flat_h = (one.flatten(2) for one in (g, x, h))  # (n, channels, pixels)
        sum_g, sum_h = flat_g.sum(2), flat_h.sum(2)  # (n, channels), as all sums over pixels
        g_h = torch.linalg.vecdot(flat_g, flat_h)
        g_x = r * torch.addcmul(torch.linalg.vecdot(flat_g, flat_x), mean, sum_g, value=-1)
        h_x = r * torch.addcmul(torch.linalg.vecdot(flat_h, flat_x), mean, sum_h, value=-1)

        def over_image(sums: Tensor) -> Tensor:
            return sums.sum(1, keepdim=True) / size

        h_mean, g_mean = over_image(sum_h), over_image(w * sum_g)
        a = torch.addcmul(over_image(w * g_h), g_mean, h_mean, value=-1)
        b, c = over_image(w * g_x), over_image(h_x)
        w_r, r_r = w * r, r * r
        c_r = c * r
        x_r = r_r * (over_image(p * g_x) + r * torch.addcmul(a, b, c, value=-3))  # less r times what is of x^
        in_g, in_h = torch.addcmul(r * p, w_r, c_r, value=-1), -r_r * b
        rest = torch.addcmul(c * g_mean, b, h_mean) * r_r - r * over_image(p * sum_g)
        of_x = _combined(torch.addcmul(rest, x_r, mean), (-x_r, x), (in_g, g), (in_h, h))
        g_r = r * torch.addcmul(p, w, c_r, value=-1)  # r times what is of x^
        constant = torch.addcmul(torch.addcmul(q, w_r, h_mean, value=-1), g_r, mean, value=-1)
        of_g = _combined(constant, (w_r, h), (g_r, x))
        of_w = (r * (g_h - torch.addcmul(h_mean * sum_g, c, g_x))).sum(0)
        return of_g, of_x, of_w, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *inputs: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        *tensors, eps = inputs
        apart = [
            [tensor] * info.batch_size if dim is None else tensor.unbind(dim)
            for tensor, dim in zip(tensors, in_dims, strict=False)
        ]
        each = [_PulledBack.apply(*of_model, eps) for of_model in zip(*apart, strict=True)]
        return tuple(torch.stack(parts) for parts in zip(*each, strict=True)), (0, 0, 0)


def _combined(constant: Tensor, *terms: tuple[Tensor, Tensor]) -> Float[Tensor, "n c h w"]:
    """``constant + sum coefficient * images``, with coefficients for each image and channel."""
    result = constant[..., None, None]
    for coefficient, images in terms:
        result = torch.addcmul(result, coefficient[..., None, None], images)
    return result


def _dense(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Images as torch normalises them: without gaps in memory, with their channels first, or on a CPU last."""
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return _channels_last(images) if last and images.device.type == "cpu" else images.contiguous()


def _like(dense: Float[Tensor, "n c h w"], images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Images in the layout of the dense ones."""
    layout = torch.contiguous_format if dense.is_contiguous() else torch.channels_last
    return images.contiguous(memory_format=layout)
