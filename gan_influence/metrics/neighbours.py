"""Precision, recall, density and coverage: what k nearest neighbours say about two sets of features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from gan_influence.checks import is_whole
from gan_influence.metrics.inputs import check_rows

__all__ = ["PrecisionRecallDensityCoverage", "precision_recall_density_coverage"]

_BLOCK = 2**22  # how many distances are held at a time: 32 MiB


class PrecisionRecallDensityCoverage(NamedTuple):
    """Shares from 0 to 1, but for the density, which may exceed 1; of each, larger is better."""

    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall_density_coverage(
    real_features: Float[Tensor, "n f"], fake_features: Float[Tensor, "m f"], k: int = 5
) -> PrecisionRecallDensityCoverage:
    """Fidelity and diversity of generated images (Naeem et al. 2020, eq. 3-6; TNNLS Table II): for evaluation only.

    Let ``B(x)`` be the open ball around x whose radius is the distance to x's k-th nearest neighbour in its own set::

        precision  share of fake rows inside the ball of a real row
        recall     share of real rows inside the ball of a fake row
        density    number of real rows' balls that a fake row is in, on average, divided by k
        coverage   share of real rows whose balls hold a fake row

    They are counts, through which no gradient passes: plain numbers, and not a metric for :func:`gan_influence.itd`.

    Distances are Euclidean and taken from differences in float64, a block at a time, so that memory does not grow with
    ``n m`` and equal rows are exactly 0 apart.

    Args:
        real_features: features of real images; several dimensions are flattened.
        fake_features: features of generated images, as many numbers in each.
        k: which neighbour, at least 1.

    Raises:
        TypeError: one of the two is no floating-point tensor.
        ValueError: one of them is not finite or has fewer than k + 1 rows; they differ in width; k is below 1.

    Example:
        >>> real, fake = torch.tensor([[0.0], [1.0], [2.0], [9.0]]), torch.tensor([[0.5], [1.5], [5.0]])
        >>> tuple(precision_recall_density_coverage(real, fake, k=1))  # only the ball of 9 reaches 5
        (1.0, 0.75, 1.6666666666666667, 1.0)
    """
    if not is_whole(k) or k < 1:
        raise ValueError(f"k must be a whole number of neighbours >= 1, got {k!r}")
    real, fake = _checked("real_features", real_features, k), _checked("fake_features", fake_features, k)
    if real.shape[1] != fake.shape[1]:
        raise ValueError(f"real_features have {real.shape[1]} numbers a row, but fake_features have {fake.shape[1]}")
    fake = fake.to(real.device)
    real_radii, fake_radii = _radii(real, k), _radii(fake, k)
    balls = torch.zeros(len(fake), dtype=torch.long, device=real.device)  # of real rows, around each fake row
    recalled, covered = 0, 0
    for start, distances in _distances(real, fake):
        inside = distances < real_radii[start : start + len(distances), None]
        balls += inside.sum(0)
        covered += int(inside.any(1).sum())
        recalled += int((distances < fake_radii).any(1).sum())
    return PrecisionRecallDensityCoverage(
        precision=int((balls > 0).sum()) / len(fake),
        recall=recalled / len(real),
        density=int(balls.sum()) / (k * len(fake)),
        coverage=covered / len(real),
    )


def _checked(name: str, features: Tensor, k: int) -> Float[Tensor, "n f"]:
    check_rows(name, features)
    if len(features) <= k:
        raise ValueError(f"{name} must hold at least k + 1 = {k + 1} rows, got {len(features)}")
    return features.detach().reshape(len(features), -1).double()


def _radii(rows: Float[Tensor, "n f"], k: int) -> Float[Tensor, " n"]:
    """The distance from each row to its k-th nearest neighbour; a row is its own nearest, at distance 0."""
    nearest = [distances.topk(k + 1, largest=False).values for _, distances in _distances(rows, rows)]
    return torch.cat(nearest).amax(1)


def _distances(x: Float[Tensor, "n f"], y: Float[Tensor, "m f"]) -> Iterator[tuple[int, Float[Tensor, "b m"]]]:
    """From some of the rows x, of which the first is number ``start``, to all y.

    From differences, not by ``|x|^2 + |y|^2 - 2 x.y``: that is faster, but its rounding would decide whether a copy of
    a neighbour, which lies on the sphere exactly, is inside.
    """
    size = max(1, _BLOCK // len(y))
    for start in range(0, len(x), size):
        yield start, torch.cdist(x[start : start + size], y, compute_mode="donot_use_mm_for_euclid_dist")
