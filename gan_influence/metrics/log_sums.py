"""Mean log-sum of Gaussian kernels between two sets of points, in memory that does not grow with their product."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["mean_log_sum"]

_AT_ONCE = 2**22  # how many kernels are held all at once
_BLOCK = 2**19  # how many a block holds where there are more: 4 MiB of float64, which stay in a processor's cache


def mean_log_sum(x: Float[Tensor, "n d"], g: Float[Tensor, "K d"], precision: float) -> Float[Tensor, ""]:
    """``(1/n) sum_i log sum_k exp(-p |x_i - g_k|^2 / 2)``, differentiable in ``g``.

    Up to ``n K = 2^22`` kernels it is a plain formula. Beyond, it holds one block of kernels at a time, and so does its
    gradient, which evaluates them once more; only a second derivative holds them all.
    """
    if len(x) * len(g) > _AT_ONCE:
        return _Blockwise.apply(x, g, precision)
    exponents = precision * (x @ g.T - 0.5 * x.square().sum(1, keepdim=True) - 0.5 * g.square().sum(1))
    return exponents.logsumexp(1).mean()


class _Block(NamedTuple):
    """Some of the rows x against all g. ``kernels`` and ``sums`` lack one factor a row; ``log_sums`` are complete."""

    rows: Float[Tensor, "b d+1"]
    kernels: Float[Tensor, "b K"]
    sums: Float[Tensor, "b 1"]
    log_sums: Float[Tensor, "b 1"]


def _blocks(x: Float[Tensor, "n d"], g: Float[Tensor, "K d"], precision: float) -> Iterator[_Block]:
    """One product makes a block's exponents, less ``p |x_i|^2 / 2``: ``(x_i, 1) . p (g_k, -|g_k|^2 / 2)``."""
    rows = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    points = precision * torch.cat([g, -0.5 * g.square().sum(1, keepdim=True)], 1)
    for block in rows.split(max(1, _BLOCK // len(g))):
        exponents = block @ points.T
        largest = exponents.detach().amax(1, keepdim=True)  # any constant would do: it cancels
        kernels = exponents.sub_(largest).exp_()
        sums = kernels.sum(1, keepdim=True)
        log_sums = sums.log() + largest - 0.5 * precision * block[:, :-1].square().sum(1, keepdim=True)
        yield _Block(block, kernels, sums, log_sums)


class _Blockwise(torch.autograd.Function):
    """:func:`mean_log_sum` block by block."""

    @staticmethod
    def forward(x: Float[Tensor, "n d"], g: Float[Tensor, "K d"], precision: float) -> Float[Tensor, ""]:
        return torch.cat([block.log_sums for block in _blocks(x, g, precision)]).mean()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
        x, g, ctx.precision = inputs
        ctx.save_for_backward(x, g)

    @staticmethod
    def backward(ctx: Any, cotangent: Float[Tensor, ""]) -> tuple[None, Float[Tensor, "K d"], None]:
        """``(p/n) sum_i P_ik (x_i - g_k)`` at ``g_k``, with the shares ``P_ik = kernel_ik / sum_k kernel_ik``."""
        x, g = ctx.saved_tensors
        shares = ((block.rows / block.sums).T @ block.kernels for block in _blocks(x, g, ctx.precision))
        moments = sum(shares, start=g.new_zeros(()))  # sum_i P_ik (x_i, 1)
        weighted_x, weights = moments[:-1].T, moments[-1:].T
        return None, cotangent * ctx.precision / len(x) * (weighted_x - weights * g), None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, g: Tensor, precision: float
    ) -> tuple[Float[Tensor, " models"], int]:
        """One model after another: all at once would need as many blocks, and the cache holds one."""
        xs, gs = (
            rows.expand(info.batch_size, *rows.shape) if dim is None else rows.movedim(dim, 0)
            for rows, dim in zip((x, g), in_dims, strict=False)
        )
        return torch.stack([_Blockwise.apply(*pair, precision) for pair in zip(xs, gs, strict=True)]), 0
