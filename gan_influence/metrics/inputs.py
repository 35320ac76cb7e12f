"""What metrics ask of their rows, and of the game they are to measure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gan_influence import trees
from gan_influence.players import Players
from gan_influence.trees import Tree

__all__ = ["check_generator", "check_latents", "check_reference_and_latents", "check_rows", "copied", "generated"]


def check_rows(name: str, rows: object) -> None:
    """Floating-point, at least one row, all finite.

    Raises:
        TypeError: it is no floating-point tensor.
        ValueError: it is empty or not finite.
    """
    if not isinstance(rows, Tensor) or not rows.is_floating_point():
        kind = rows.dtype if isinstance(rows, Tensor) else type(rows).__name__
        hint = ": convert it with torch.from_numpy" if isinstance(rows, np.ndarray) else ""
        raise TypeError(f"{name} must be a floating-point tensor, got {kind}{hint}")
    _check_filled(name, rows)
    if not rows.isfinite().all():
        raise ValueError(f"{name} contains NaN or infinity")


def check_latents(latents: Tree) -> torch.dtype:
    """A floating-point tensor, or a tree of tensors of as many rows each, which is one argument of a generator.

    Returns:
        The data type of the floating-point ones.

    Raises:
        TypeError: it holds something else than tensors, no floating-point one, or these differ in data type.
        ValueError: one is empty or not finite, or they have different numbers of rows.
    """
    parts = dict(_parts("latents", latents))
    floating = {name: part for name, part in parts.items() if _is_floating(part)}
    whole = {name: part for name, part in parts.items() if isinstance(part, Tensor) and not _is_floating(part)}
    for name, part in parts.items():
        if name in whole and floating:
            _check_filled(name, part)
        else:
            check_rows(name, part)
    if not floating:
        raise TypeError(f"latents must hold a floating-point tensor, got {latents!r}")
    lengths = {name: len(part) for name, part in parts.items()}
    if len(set(lengths.values())) > 1:
        counted = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"the parts of latents must have as many rows each, but {counted}")
    dtypes = {part.dtype for part in floating.values()}
    if len(dtypes) > 1:
        raise TypeError(f"the parts of latents are {' and '.join(sorted(map(str, dtypes)))}: convert some of them")
    return dtypes.pop()


def check_reference_and_latents(reference: Tensor, latents: Tree) -> torch.dtype:
    """As :func:`check_rows` and :func:`check_latents` ask, and of one data type, which is returned.

    Raises:
        TypeError: one of them is no floating-point tensor, or the two differ in data type.
        ValueError: one of them is empty or not finite.
    """
    check_rows("reference", reference)
    dtype = check_latents(latents)
    if reference.dtype != dtype:
        raise TypeError(f"reference is {reference.dtype}, but latents are {dtype}: convert one of them")
    return dtype


def copied(latents: Tree) -> Tree:
    """The latents out of reach of later changes."""
    return trees.mapped(lambda part: part.detach().clone(), latents)


def generated(players: Players, latents: Tree) -> Tensor:
    """The generator's rows for latents that are one argument of it, also where they are a tuple."""
    return players.generate((latents,))


def check_generator(metric: str, players: Players, dtype: torch.dtype) -> None:
    """The game has a generator, whose parameters are of the metric's data type.

    Raises:
        TypeError: it has not, or they are not.
    """
    if "generator" not in players.parameters:
        names = list(players.parameters)
        there = "one player" if len(names) == 1 else f"the players {', '.join(names)}"
        raise TypeError(
            f"{metric} measures a generator, but this game has {there}: use AverageLoss or PlayerLoss, or a GAN"
        )
    of_generator = players.parameters["generator"].dtype
    if of_generator != dtype:
        raise TypeError(
            f"the generator's parameters are {of_generator}, but the metric's latents and reference are "
            f"{dtype}: convert one of them"
        )


def _parts(name: str, tree: Tree) -> Iterator[tuple[str, Any]]:
    """What a tree holds, each with where it is."""
    if isinstance(tree, dict | tuple | list):
        for key, part in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _parts(f"{name}[{key!r}]", part)
    elif tree is not None or name == "latents":
        yield name, tree


def _is_floating(part: object) -> bool:
    return isinstance(part, Tensor) and part.is_floating_point()


def _check_filled(name: str, rows: Tensor) -> None:
    if rows.ndim == 0 or len(rows) == 0:
        raise ValueError(f"{name} must hold at least one row, got shape {tuple(rows.shape)}")
