"""Layers of torch that torch cannot differentiate twice, batch or replay, made so in the copies that are trained."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm

__all__ = ["with_right_derivatives"]


def with_right_derivatives(module: nn.Module) -> nn.Module:
    """The module itself, where such layers compute the same by operations that can be differentiated twice.

    ``torch.nn.utils.parametrizations.weight_norm`` rests on ``torch._weight_norm``, whose double backward is wrong
    (``gradgradcheck`` fails) and which has no rule for ``vmap``. ``spectral_norm`` writes its vectors by ``out=``, for
    which ``vmap`` has none either.
    """
    for part in module.modules():
        if type(part) in _RIGHT:
            part.__class__ = _RIGHT[type(part)]  # the class holds the formula, the instance its settings and buffers
    return module


class SpectralNorm(_SpectralNorm):
    """``W / sigma``, ``sigma = u^T W v`` with u and v from power iterations, which go on at every call."""

    @torch.no_grad()
    def _power_method(self, weight_mat: Float[Tensor, "m n"], n_power_iterations: int) -> None:
        u, v = self._u, self._v
        for _ in range(n_power_iterations):
            u = normalize(torch.mv(weight_mat, v), dim=0, eps=self.eps)
            v = normalize(torch.mv(weight_mat.H, u), dim=0, eps=self.eps)
        self._u.copy_(u)
        self._v.copy_(v)


class WeightNorm(_WeightNorm):
    """``g v / |v|``, with a norm for each index of one dimension, or of the whole."""

    def forward(self, weight_g: Float[Tensor, "..."], weight_v: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        kept = self.dim % weight_v.ndim if self.dim != -1 else None  # -1 stands for the norm of the whole
        others = [dim for dim in range(weight_v.ndim) if dim != kept]
        return weight_v * (weight_g / weight_v.square().sum(others, keepdim=kept is not None).sqrt())


_RIGHT: dict[type, type] = {_WeightNorm: WeightNorm, _SpectralNorm: SpectralNorm}
