"""The sigmoid, whose second derivative takes two passes over the data."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Sigmoid"]


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
