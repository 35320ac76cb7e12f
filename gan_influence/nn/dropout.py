"""Dropout whose randomness the batch brings along, so that every step can be taken again."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from gan_influence.checks import is_real

__all__ = ["Dropout"]


class Dropout(nn.Module):
    """``nn.Dropout(p)`` by uniform numbers that it is handed: ``x / (1 - p)`` where ``noise >= p``, else 0.

    A module of the game's own takes the noise from its caller, the cost, which has it from ``batch.noise``; the
    schedule draws it, ``Minibatches(..., noise=lambda rng, n: rng.random((n, 8)))``. In ``eval()`` mode it is the
    identity and needs no noise.

    Args:
        p: the probability of a number to be dropped, 0 <= p < 1.

    Raises:
        ValueError: p lies elsewhere; called in ``train()`` mode without noise, or with noise of another shape.

    Example:
        >>> import torch
        >>> from gan_influence.nn import Dropout
        >>> dropout, x = Dropout(0.5), torch.tensor([[1.0, 2.0, 3.0]])
        >>> dropout(x, noise=torch.tensor([[0.1, 0.5, 0.9]]))
        tensor([[0., 4., 6.]])
        >>> dropout.eval()(x)
        tensor([[1., 2., 3.]])
    """

    def __init__(self, p: float = 0.5):
        super().__init__()
        if not is_real(p) or not 0 <= p < 1:
            raise ValueError(f"p must be the probability of a number to be dropped, 0 <= p < 1, got {p!r}")
        self.p = float(p)

    def forward(self, x: Float[Tensor, "*any"], noise: Float[Tensor, "*any"] | None = None) -> Float[Tensor, "*any"]:
        if not self.training:
            return x
        if noise is None:
            raise ValueError(
                "Dropout in train() mode needs noise, uniform numbers in [0, 1) of its input's shape: hand it "
                "batch.noise, which the schedule draws, Minibatches(..., noise=lambda rng, n: rng.random((n, ...))); "
                "or call .eval()"
            )
        if noise.shape != x.shape:
            raise ValueError(
                f"Dropout needs a number for each of its input's, of shape {tuple(x.shape)}, but the noise has shape "
                f"{tuple(noise.shape)}"
            )
        return x * ((noise >= self.p).to(x.dtype) / (1 - self.p))

    def extra_repr(self) -> str:
        return f"p={self.p:g}"
