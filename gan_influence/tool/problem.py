"""What is cleansed: a training, its rows, what is measured of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gan_influence import trees
from gan_influence.checks import is_real, is_whole
from gan_influence.game import Game
from gan_influence.harmfulness import larger_is_better
from gan_influence.tool.arguments import Settings
from gan_influence.tool.errors import InputError

__all__ = ["Problem", "checked_removal", "device_of", "is_pictures"]

_RATE = 0.05


@dataclass(frozen=True, eq=False)
class Problem:
    """A training and what is known of its rows.

    Attributes:
        game, data, schedule, steps, optimizer: as :func:`gan_influence.train` takes them; ``options`` its others.
        metric: by which rows are scored.
        metric_in_words: what it is, for the summary.
        held_out: the same on latents and rows that scores have not seen, one metric a set of latents; may be empty.
        last: how many last steps are traced back and retrained; ``None`` is all.
        labels, paths: of each row, where there are any.
        latents: of the generated images that are shown.
        planted: which rows a demonstration has spoilt.
        features: of images, ``(n, f)``, for the isolation forest.
        notes: for the summary.
    """

    game: Game
    data: Any
    schedule: Any
    steps: int
    optimizer: Any
    metric: Any
    metric_in_words: str
    options: Mapping[str, Any] = field(default_factory=dict)
    held_out: tuple[Any, ...] = ()
    last: int | None = None
    labels: tuple[str, ...] | None = None
    paths: tuple[str, ...] | None = None
    latents: Any = None
    planted: Bool[Tensor, " N"] | None = None
    features: Any = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        larger_is_better(self.metric)
        for name in ("labels", "paths"):
            given = getattr(self, name)
            if given is not None and len(given) != self.size:
                raise InputError(f"there are {self.size} rows, but {len(given)} {name}: one a row")

    @property
    def size(self) -> int:
        return trees.length(self.data)

    @property
    def images(self) -> Float[Tensor, "N colours height width"] | None:
        """The rows as pictures, where they are some."""
        first = trees.leaves(self.data)[0]
        return first if is_pictures(first) else None

    def name(self, row: int) -> str:
        return f"row {row}" if self.paths is None else self.paths[row]


def is_pictures(rows: Any) -> bool:
    """Grey or coloured images, ``(n, 1 or 3, height, width)``?"""
    return isinstance(rows, Tensor) and rows.ndim == 4 and rows.shape[1] in (1, 3) and rows.is_floating_point()


def checked_removal(settings: Settings, size: int) -> int:
    """How many rows are removed at most.

    Raises:
        InputError: a rate outside (0, 1), or as many as there are rows.
    """
    if settings.count is not None:
        if not is_whole(settings.count) or not 0 < settings.count < size:
            raise InputError(f"--count must be from 1 to {size - 1}, of {size} training rows, got {settings.count}")
        return settings.count
    rate = _RATE if settings.rate is None else settings.rate
    if not is_real(rate) or not 0 < rate < 1:
        raise InputError(f"--rate must be a share of the rows in (0, 1), got {rate}")
    return max(int(rate * size), 1)


def device_of(name: str) -> str:
    """``auto`` is a GPU where there is one.

    Raises:
        InputError: it names no device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return str(torch.device(name))
    except RuntimeError as error:
        raise InputError(f"--device must be auto, cpu or cuda, got {name}") from error
