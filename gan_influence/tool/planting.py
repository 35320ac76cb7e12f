"""Contamination for a demonstration: what is known to be wrong in the training rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from gan_influence.tool.pictures import Pictures

__all__ = ["KINDS", "Planted", "planted", "without_class"]

KINDS = ("class", "inverted", "duplicates")
SHARE = 0.05


class Planted(NamedTuple):
    """Training rows, and which of them were spoilt."""

    pictures: Pictures
    mask: Bool[Tensor, " n"]


def without_class(pictures: Pictures) -> tuple[Pictures, Pictures]:
    """The pictures of all classes but one, and those of that one, whose mean is farthest from that of the others.

    Raises:
        InputError: there are no labels, or but one.
    """
    classes = pictures.classes("--demo class plants images of another class")
    labels = np.array(pictures.labels)

    def distance(of: str) -> float:
        inside = torch.from_numpy(labels == of)
        return float((pictures.images[inside].mean(0) - pictures.images[~inside].mean(0)).norm())

    other = labels == max(classes, key=distance)
    return pictures.part(np.flatnonzero(~other)), pictures.part(np.flatnonzero(other))


def planted(training: Pictures, kind: str, other: Pictures | None, seed: int) -> Planted:
    """Spoil 5 % of the rows: put images of another class in their place, invert them, or make them copies of one.

    Args:
        training: the rows.
        kind: one of :data:`KINDS`.
        other: images of another class, for ``"class"``.
        seed: of the choice.
    """
    rng = np.random.default_rng([seed, 5])
    n = len(training.images)
    rows = np.sort(rng.choice(n, max(round(SHARE * n), 1), replace=False))
    images, labels = training.images.clone(memory_format=torch.contiguous_format), list(training.labels or ())
    if kind == "inverted":
        images[rows] = -images[rows]
    elif kind == "duplicates":
        images[rows] = images[rows[0]].clone()
    elif other is not None:
        rows = rows[: len(other.images)]
        images[rows] = other.images[rng.permutation(len(other.images))[: len(rows)]]
    if labels and kind != "inverted":
        source = other.labels if kind == "class" and other is not None else None
        for row in rows:
            labels[row] = source[0] if source else labels[rows[0]]
    mask = torch.zeros(n, dtype=torch.bool)
    mask[rows] = True
    return Planted(training._replace(images=images, labels=tuple(labels) or None), mask)


def precision_and_recall(removed: Sequence[int], mask: Bool[Tensor, " n"]) -> tuple[float, float]:
    """Of what is removed the share that was planted, and of what was planted the share that is removed."""
    found = int(mask[list(removed)].sum())
    return found / max(len(removed), 1), found / max(int(mask.sum()), 1)
