"""Layer normalisation of images, whose second derivative takes five passes over the data."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gan_influence.nn import layouts

__all__ = ["ImageNorm"]


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
        x = layouts.dense(x)
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

    Collected by the images that they multiply, with coefficients for each image and channel::

        d/dg = w r h + S (x - m) + R                  d/dx = G g + H h - X (x - m) + T

        S = r (p - w r c)                             G = r p - w r^2 c
        R = q - w r mean h                            H = -r^2 b
        T = r^2 (c mean(w g) + b mean h) - r mean(p g)
        X = r^2 (mean(p g x^) + r (a - 3 b c))
    """

    @staticmethod
    def forward(g: Tensor, x: Tensor, w: Tensor, mean: Tensor, r: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        n, channels, *size = x.shape
        x = layouts.dense(x)
        return torch.ops.aten.native_group_norm_backward(
            layouts.like(x, g), x, mean, r, w, n, channels, size[0] * size[1], 1, [True, True, True]
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

        mean_h, mean_wg = over_image(sum_h), over_image(w * sum_g)
        a = torch.addcmul(over_image(w * g_h), mean_wg, mean_h, value=-1)
        b, c = over_image(w * g_x), over_image(h_x)
        w_r, r_r = w * r, r * r
        c_r = c * r
        X = r_r * (over_image(p * g_x) + r * torch.addcmul(a, b, c, value=-3))
        G, H = torch.addcmul(r * p, w_r, c_r, value=-1), -r_r * b
        T = torch.addcmul(c * mean_wg, b, mean_h) * r_r - r * over_image(p * sum_g)
        of_x = _combined(torch.addcmul(T, X, mean), (-X, x), (G, g), (H, h))
        S = r * torch.addcmul(p, w, c_r, value=-1)
        R = torch.addcmul(q, w_r, mean_h, value=-1)
        of_g = _combined(torch.addcmul(R, S, mean, value=-1), (w_r, h), (S, x))
        of_w = (r * (g_h - torch.addcmul(mean_h * sum_g, c, g_x))).sum(0)
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
