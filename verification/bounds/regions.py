"""Regions on which constants hold: stacks of closed boxes {|theta - center| <= radius, elementwise}.

A bound needs constants that hold on the segments between the factual and the counterfactual trajectory: one box for
everything, or one a step (`boxes_between`), which is much smaller and just as valid: each segment lies in its own,
convex, box.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from verification.dense_lqgan import Array

__all__ = ["MARGIN", "Boxes", "ball_box", "boxes_between"]

MARGIN = 1e-9
"""What bounds are widened by, relative to their size."""


@dataclass(frozen=True)
class Boxes:
    """K closed boxes {theta : |theta - center| <= radius}: center and radius are (K, 4)."""

    center: Array
    radius: Array

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        return iter(zip(self.center, self.radius, strict=True))

    def contains(self, points: Array) -> bool:
        """Whether some box holds every one of the points (..., 4)."""
        distance = np.abs(points[..., None, :] - self.center)
        return bool(np.all(distance <= self.radius, axis=-1).any(axis=-1).all())


def boxes_between(trajectory: Array, counterfactuals: Array, chunk: int | None = None) -> Boxes:
    """Boxes holding both trajectories and the segments between them.

    `trajectory` is (T + 1, 4), `counterfactuals` (T + 1, K, 4). Each run of `chunk` consecutive steps gets the
    smallest box around its points; None makes a single box. chunk = 1 makes box t hold the segments of step t.
    """
    points = np.concatenate([trajectory[:, None], counterfactuals], axis=1)
    starts = np.arange(0, len(points), chunk or len(points))
    low = np.minimum.reduceat(points.min(axis=1), starts)
    high = np.maximum.reduceat(points.max(axis=1), starts)
    return Boxes((low + high) / 2.0, (high - low) / 2.0 + MARGIN * np.maximum(np.abs(low), np.abs(high)))


def ball_box(center: Array, radius: float, whitening: Array | None = None) -> Boxes:
    """The box around the ball |W (theta - center)| <= radius; half-widths radius * (row norms of W^{-1})."""
    inverse = np.eye(4) if whitening is None else np.linalg.inv(whitening)
    return Boxes(center[None], radius * (1.0 + MARGIN) * np.linalg.norm(inverse, axis=1)[None])
