"""Mean log-sum of Gaussian kernels between two sets of points, in memory that does not grow with their product."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["lie_apart", "mean_log_sum"]

_AT_ONCE = 2**22  # how many kernels are held all at once
_BLOCK = 2**19  # how many a block holds where there are more: 4 MiB of float64, which stay in a processor's cache
_APART = 2.0**20  # beyond it, p |x|^2 in float64 has an error above 2^-32, which shows in an exponent near 0


def lie_apart(x: Float[Tensor, "n d"], precision: float) -> bool:
    """Whether some of the rows lie so many bandwidths from the origin that ``|x|^2 + |g|^2 - 2 x.g`` loses digits.

    The points ``g`` do not matter: those that are as far away, but near no row, have exponents as large as the errors.
    """
    return precision * float(x.square().sum(1).max()) > _APART


def mean_log_sum(
    x: Float[Tensor, "n d"], g: Float[Tensor, "K d"], precision: float, apart: bool = False
) -> Float[Tensor, ""]:
    """``(1/n) sum_i log sum_k exp(-p |x_i - g_k|^2 / 2)``, differentiable in ``g``, in float64.

    Up to ``n K = 2^22`` kernels it is a plain formula. Beyond, it holds one block of kernels at a time, and so does its
    gradient, which evaluates them once more; only a second derivative holds them all.

    Args:
        x: rows, of any floating-point type: each is computed with in float64.
        g: points, likewise.
        precision: p.
        apart: what :func:`lie_apart` says of ``x``: then each ``x_i - g_k`` is formed, d numbers for every kernel.
    """
    x, g = x.double(), g.double()
    if len(x) * _numbers_a_row(g, apart) > _AT_ONCE:
        return _Blockwise.apply(x, g, precision, apart)
    if apart:
        exponents = _exponents_by_difference(x, g, precision)
    else:
        exponents = precision * (x @ g.T - 0.5 * x.square().sum(1, keepdim=True) - 0.5 * g.square().sum(1))
    return exponents.logsumexp(1).mean()


def _numbers_a_row(g: Float[Tensor, "K d"], apart: bool) -> int:
    return g.numel() if apart else len(g)


def _exponents_by_difference(
    x: Float[Tensor, "n d"], g: Float[Tensor, "K d"], precision: float
) -> Float[Tensor, "n K"]:
    by_dimension = x.T.contiguous()[:, :, None] - g.T.contiguous()[:, None]  # so laid out, their sum is fast
    return -0.5 * precision * by_dimension.square().sum(0)


class _Block(NamedTuple):
    """Some of the rows x against all g. ``kernels`` and ``sums`` lack one factor a row; ``log_sums`` are complete."""

    rows: Float[Tensor, "b d+1"]
    kernels: Float[Tensor, "b K"]
    sums: Float[Tensor, "b 1"]
    log_sums: Float[Tensor, "b 1"]


def _blocks(x: Float[Tensor, "n d"], g: Float[Tensor, "K d"], precision: float, apart: bool) -> Iterator[_Block]:
    """One product makes a block's exponents, less ``p |x_i|^2 / 2``: ``(x_i, 1) . p (g_k, -|g_k|^2 / 2)``."""
    rows = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    points = precision * torch.cat([g, -0.5 * g.square().sum(1, keepdim=True)], 1)
    for block in rows.split(max(1, _BLOCK // _numbers_a_row(g, apart))):
        exponents = _exponents_by_difference(block[:, :-1], g, precision) if apart else block @ points.T
        largest = exponents.detach().amax(1, keepdim=True)  # any constant would do: it cancels
        kernels = exponents.sub_(largest).exp_()
        sums = kernels.sum(1, keepdim=True)
        log_sums = sums.log() + largest
        if not apart:
            log_sums = log_sums - 0.5 * precision * block[:, :-1].square().sum(1, keepdim=True)
        yield _Block(block, kernels, sums, log_sums)


class _Blockwise(torch.autograd.Function):
    """:func:`mean_log_sum` block by block."""

    @staticmethod
    def forward(x: Float[Tensor, "n d"], g: Float[Tensor, "K d"], precision: float, apart: bool) -> Float[Tensor, ""]:
        return torch.cat([block.log_sums for block in _blocks(x, g, precision, apart)]).mean()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float, bool], output: Tensor) -> None:
        x, g, ctx.precision, ctx.apart = inputs
        ctx.save_for_backward(x, g)

    @staticmethod
    def backward(ctx: Any, cotangent: Float[Tensor, ""]) -> tuple[None, Float[Tensor, "K d"], None, None]:
        """``(p/n) sum_i P_ik (x_i - g_k)`` at ``g_k``, with the shares ``P_ik = kernel_ik / sum_k kernel_ik``."""
        x, g = ctx.saved_tensors
        shares = ((block.rows / block.sums).T @ block.kernels for block in _blocks(x, g, ctx.precision, ctx.apart))
        moments = sum(shares, start=g.new_zeros(()))  # sum_i P_ik (x_i, 1)
        weighted_x, weights = moments[:-1].T, moments[-1:].T
        return None, cotangent * ctx.precision / len(x) * (weighted_x - weights * g), None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, g: Tensor, precision: float, apart: bool
    ) -> tuple[Float[Tensor, " models"], int]:
        """One model after another: all at once would need as many blocks, and the cache holds one."""
        xs, gs = (
            rows.expand(info.batch_size, *rows.shape) if dim is None else rows.movedim(dim, 0)
            for rows, dim in zip((x, g), in_dims, strict=False)
        )
        return torch.stack([_Blockwise.apply(*pair, precision, apart) for pair in zip(xs, gs, strict=True)]), 0
