"""Images with their labels, and their division at random."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gan_influence.checks import is_whole

__all__ = ["LabelledImages", "split"]


class LabelledImages(NamedTuple):
    """Images in [-1, 1], and of each the digit it shows (int64)."""

    images: Float[Tensor, "n channels height width"]
    labels: Int[Tensor, " n"]


def split(data: LabelledImages, *sizes: int, seed: int) -> tuple[LabelledImages, ...]:
    """Disjoint parts, drawn at random: as TNNLS VI-B and VI-C select MNIST's training and validation rows.

    The parts are consecutive stretches of one permutation of the rows: with the same seed, the first part does not
    depend on the sizes of the later ones.

    Args:
        data: to be divided; it is left as it is, and rows that no part takes are left out.
        sizes: of the parts.
        seed: of the permutation.

    Raises:
        ValueError: no sizes; a size below 1; sizes that together exceed the rows; a negative seed; images and labels
            that differ in number.

    Example:
        >>> data = LabelledImages(torch.zeros(9, 1, 4, 4), torch.arange(9))
        >>> train, validation = split(data, 5, 3, seed=0)
        >>> len(train.labels), len(validation.labels)
        (5, 3)
    """
    rows = len(data.images)
    if len(data.labels) != rows:
        raise ValueError(f"data holds {rows} images, but {len(data.labels)} labels")
    lengths = _checked(sizes, rows)
    if not is_whole(seed) or seed < 0:
        raise ValueError(f"seed must be a whole number >= 0, got {seed!r}")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(rows)[: sum(lengths)])
    return tuple(LabelledImages(data.images[part], data.labels[part]) for part in order.split(lengths))


def _checked(sizes: tuple[int, ...], rows: int) -> list[int]:
    if not sizes:
        raise ValueError("split needs the size of at least one part, such as split(data, 1000, seed=0)")
    for position, size in enumerate(sizes):
        if not is_whole(size) or size < 1:
            raise ValueError(f"sizes[{position}] must be a whole number >= 1, got {size!r}")
    lengths = [int(size) for size in sizes]  # narrow NumPy integers would overflow in the sum
    if sum(lengths) > rows:
        terms = f"{' + '.join(map(str, lengths))} = " if len(lengths) > 1 else ""
        raise ValueError(f"{terms}{sum(lengths)} rows are asked for, but the data has {rows}")
    return lengths
