"""Which rows and which latents step ``t`` of training uses, as a pure function of ``t``.

A schedule can be asked for any step, in any order and any number of times: retraining and the reverse sweep replay
it. Whatever is random in it must therefore be derived from a seed and ``t``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from gan_influence import trees
from gan_influence.batch import Batch
from gan_influence.checks import check, is_whole
from gan_influence.trees import Tree

__all__ = ["Draw", "FullBatch", "Minibatches", "RecordedBatches", "Schedule", "rows"]

Draw: TypeAlias = Callable[[np.random.Generator, int], Tree]


class Schedule(Protocol):
    """What training needs of a schedule: the batch of step ``t >= 0``, the same at every call."""

    def __call__(self, t: int) -> Batch: ...


class FullBatch:
    """Every step uses all rows, the same latents and the same noise: TNNLS eq. 3.

    Args:
        latents: ``(N_z, *latent_shape)``, or a tree of tensors; none in a one-player game.
        noise: a tree of tensors.

    Raises:
        TypeError: the latents are not a floating-point tensor, or a tree holds something else than tensors.
        ValueError: there are none, or some are not finite.
    """

    def __init__(self, latents: Tree = None, noise: Tree = None):
        if latents is not None and not isinstance(latents, dict | tuple | list):
            _check_latents(latents)
        self.latents, self.noise = (_copied(tree, name) for tree, name in ((latents, "latents"), (noise, "noise")))

    def __call__(self, t: int) -> Batch:
        return Batch(None, self.latents, self.noise)


class RecordedBatches:
    """A list of batches as a schedule: step t uses the t-th. ``gi.train`` makes one of a list.

    Args:
        batches: ``gi.Batch(indices, latents, noise)`` each.
    """

    def __init__(self, batches: Sequence[Batch]):
        self.batches = tuple(batches)

    def __call__(self, t: int) -> Batch:
        if t >= len(self.batches):
            raise IndexError(f"{len(self.batches)} batches were given, and so none of step {t}")
        return self.batches[t]


@dataclass(frozen=True)
class Minibatches:
    """Every row once an epoch, in a fresh order each epoch, with fresh N(0, 1) latents (ICLR Section 2, TNNLS VI-A).

    An epoch is ``ceil(size / batch_size)`` steps; where ``batch_size`` does not divide ``size`` its last batch is
    smaller, and so is its denominator. All draws come from counter-based generators keyed by (seed, epoch) and
    (seed, t): step t is the same whatever was asked for before.

    Args:
        size: N, how many rows the data has.
        batch_size: rows a step.
        latent_shape: of one latent; a step has one latent a row. ``None`` in a one-player game.
        seed: of all draws.
        dtype: of the latents and of the noise; by default that of the players, rounded from float64 draws.
        latents: instead of N(0, 1) of ``latent_shape``, ``(rng, n) -> tree`` of arrays or tensors, first dimension n,
            from a ``numpy.random.Generator`` alone, such as
            ``lambda rng, n: (rng.standard_normal((n, 10)), rng.integers(5, size=n))``.
        noise: whatever else a step draws, likewise, from a generator of its own.

    Raises:
        ValueError: a batch size outside 1 ... N; a latent shape that is none; a negative seed.

    Example:
        >>> schedule = Minibatches(size=5, batch_size=2, latent_shape=(3,), seed=0)
        >>> [len(schedule(t).indices) for t in range(4)], schedule(0).latents.shape
        ([2, 2, 1, 2], torch.Size([2, 3]))
    """

    size: int
    batch_size: int
    latent_shape: tuple[int, ...] | None = None
    seed: int = 0
    dtype: torch.dtype | None = None
    latents: Draw | None = None
    noise: Draw | None = None

    def __post_init__(self) -> None:
        size, batch_size, shape, seed, dtype = self.size, self.batch_size, self.latent_shape, self.seed, self.dtype
        check(is_whole(size) and size >= 1, "size", "the number of training rows, at least 1", size)
        if not is_whole(batch_size) or not 1 <= batch_size <= size:
            raise ValueError(f"batch_size must lie between 1 and size = {size}, got {batch_size!r}")
        if shape is not None:
            lengths = tuple(shape) if isinstance(shape, tuple | list) else (None,)
            are_lengths = all(is_whole(length) and length >= 1 for length in lengths)
            check(are_lengths, "latent_shape", "a tuple of lengths >= 1, such as (10,)", shape)
            object.__setattr__(self, "latent_shape", lengths)
            if self.latents is not None:
                raise ValueError("give either latent_shape, for N(0, 1), or latents, a draw of your own")
        check(is_whole(seed) and 0 <= seed < 2**64, "seed", "a whole number from 0 to 2^64 - 1", seed)
        is_type = dtype is None or (isinstance(dtype, torch.dtype) and dtype.is_floating_point)
        check(is_type, "dtype", "a floating-point data type", dtype)

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.size // self.batch_size)

    def __call__(self, t: int) -> Batch:
        return self.at(t, t)

    def at(self, t: int, look: int) -> Batch:
        """Step ``t``'s draws, and the rows of the ``look``-th step that looks at rows."""
        epoch, k = divmod(look, self.steps_per_epoch)
        indices = _order(self.size, self.seed, epoch)[k * self.batch_size : (k + 1) * self.batch_size].clone()
        draw = _normal(self.latent_shape) if self.latent_shape is not None else self.latents
        drawn = (self._drawn(draw, "latents", t, len(indices)), self._drawn(self.noise, "noise", t, len(indices)))
        return Batch(indices, *drawn)

    def _drawn(self, draw: Draw | None, stream: str, t: int, n: int) -> Tree:
        if draw is None:
            return None
        tree = _tensors(draw(_random(self.seed, stream, t), n))
        return tree if self.dtype is None else trees.mapped(self._cast, tree)

    def _cast(self, leaf: Tensor) -> Tensor:
        return leaf.to(self.dtype) if leaf.is_floating_point() else leaf


def _normal(shape: tuple[int, ...]) -> Draw:
    return lambda rng, n: rng.standard_normal((n, *shape))


def _tensors(tree: Any) -> Tree:
    """A tree of arrays, numbers and tensors as one of tensors."""
    if isinstance(tree, dict):
        return {name: _tensors(part) for name, part in tree.items()}
    if isinstance(tree, tuple | list):
        return tuple(_tensors(part) for part in tree)
    return tree if isinstance(tree, Tensor) or tree is None else torch.as_tensor(tree)


def rows(dataset: Any) -> Tree:
    """A ``torch.utils.data`` dataset's items as a tree of tensors, first dimension N: the ``data`` of a run.

    Args:
        dataset: with a length, and items of one form: tensors, numbers, tuples or dicts of them.

    Raises:
        ValueError: it is empty, or its items differ in form or shape; the first that does is named.
    """
    items: list[Tree] = []
    first = None
    for k in range(len(dataset)):
        items.append(_tensors(dataset[k]))
        shapes = trees.shapes(items[k])
        first = first or shapes
        if shapes != first:
            raise ValueError(f"item {k} of the dataset differs from item 0 in its form or its shapes: transform it")
    if not items:
        raise ValueError("the dataset is empty")
    return trees.stack(items)


@lru_cache(maxsize=8)
def _order(size: int, seed: int, epoch: int) -> Int[Tensor, " size"]:
    return torch.from_numpy(_random(seed, "order", epoch).permutation(size))


_STREAMS = {"order": 0, "latents": 1, "noise": 2}


def _random(seed: int, stream: str, counter: int) -> np.random.Generator:
    """Philox is a function of (key, counter): streams of different steps cannot overlap."""
    key = np.array([seed, _STREAMS[stream]], dtype=np.uint64)  # of a list with a large seed NumPy makes floats
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, counter]))


def _check_latents(latents: Any) -> None:
    if not isinstance(latents, Tensor) or not latents.is_floating_point():
        raise TypeError(f"latents must be a floating-point tensor (N_z, *latent_shape), got {_describe(latents)}")
    if latents.ndim == 0 or len(latents) == 0:
        raise ValueError(f"latents must hold at least one row, got shape {tuple(latents.shape)}")
    if not latents.isfinite().all():
        raise ValueError("latents contain NaN or infinity")


def _copied(tree: Tree, name: str) -> Tree:
    if tree is None:
        return None
    if not trees.leaves(tree):
        besides = "floating-point tensor (N_z, *latent_shape), or a " if name == "latents" else ""
        raise TypeError(f"{name} must be a {besides}tree of tensors, got {_describe(tree)}")
    return trees.mapped(lambda leaf: leaf.detach().clone(), tree)


def _describe(value: object) -> str:
    return f"a {value.dtype} tensor" if isinstance(value, torch.Tensor) else type(value).__name__
