"""Layers of torch whose second derivative torch gets wrong, made right in the copies that are trained."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _WeightNorm

__all__ = ["with_right_derivatives"]


def with_right_derivatives(module: nn.Module) -> nn.Module:
    """The module itself, where such layers compute the same by operations that can be differentiated twice.

    ``torch.nn.utils.parametrizations.weight_norm`` rests on ``torch._weight_norm``, whose double backward is wrong
    (``gradgradcheck`` fails) and which has no rule for ``vmap``.
    """
    for part in module.modules():
        if type(part) is _WeightNorm:
            part.__class__ = WeightNorm  # the class holds the formula, the instance its dimension alone
    return module


class WeightNorm(_WeightNorm):
    """``g v / |v|``, with a norm for each index of one dimension, or of the whole."""

    def forward(self, weight_g: Float[Tensor, "..."], weight_v: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        kept = self.dim % weight_v.ndim if self.dim != -1 else None  # -1 stands for the norm of the whole
        others = [dim for dim in range(weight_v.ndim) if dim != kept]
        return weight_v * (weight_g / weight_v.square().sum(others, keepdim=kept is not None).sqrt())
