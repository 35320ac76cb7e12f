"""A channel besides the others: how much the rows of a batch differ, or ones."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["with_deviation", "with_deviation_beside", "with_ones"]


def with_ones(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c+1 h w"]:
    """Each image with a channel of ones."""
    return pad(images, (0, 0, 0, 0, 0, 1), value=1.0)


def with_deviation(images: Float[Tensor, "n c h w"], group: int) -> Float[Tensor, "n c+1 h w"]:
    """Each image with a channel of its group's deviation, the mean over channels and pixels (Karras et al. 2018).

    A group is rows k, k + n/g, k + 2 n/g, ..., with g the lesser of ``group`` and n. Rows of a group depend on each
    other.

    Raises:
        ValueError: g does not divide n.
    """
    n, _, h, w = images.shape
    g = min(group, n)
    if n % g:
        raise ValueError(
            f"the deviation is that of groups of {group} rows, which {n} rows do not fill: call the discriminator with "
            f"fewer rows or with a multiple of {group}, or take stddev='constant'"
        )
    deviation = (images.unflatten(0, (g, n // g)).var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
    channel = deviation.repeat(g)[:, None, None, None].expand(n, 1, h, w)
    return torch.cat([images, channel], 1)


def with_deviation_beside(
    images: Float[Tensor, "n c h w"], companions: Float[Tensor, "m c h w"], group: int
) -> Float[Tensor, "n c+1 h w"]:
    """As :func:`with_deviation` of the companions, but each image in the place of the companion of its own index.

    Image i's group is itself and the others of companion i's group, so that no image depends on another.

    Raises:
        ValueError: there are fewer companions than images, or ``group`` does not divide their number.
    """
    n, m = len(images), len(companions)
    if m < n or m % group:
        raise ValueError(
            f"{n} rows need a multiple of {group} companions, at least as many as they are, got {m}: an epoch's last "
            f"batch, too, must have a multiple of {group} rows"
        )
    columns = m // group
    which = torch.arange(n, device=images.device)
    members = which % columns + columns * torch.arange(group, device=images.device)[:, None]
    is_own = (members == which)[..., None, None, None]
    grouped = torch.where(is_own, images, companions[members])
    deviation = (grouped.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
    return torch.cat([images, deviation[:, None, None, None].expand(n, 1, *images.shape[2:])], 1)
