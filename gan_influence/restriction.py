"""Influence through some of the parameters: the block of AID's equation that is theirs, the rest held."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gan_influence.curvature import ShiftedField
from gan_influence.game import Game

__all__ = ["AnyField", "RestrictedField", "places"]

_SHOWN = 6  # names in a message


def places(game: Game, parameters: str | Sequence[str]) -> Int[Tensor, " m"]:
    """Where in ``theta`` the parameters stand whose names, ``"player.name"``, match one of the patterns.

    Args:
        game: whose parameters.
        parameters: patterns with ``*``, ``?`` and ``[...]`` as in file names: ``"model.4.*"``, ``["*.weight"]``.

    Raises:
        TypeError: a pattern is no string.
        ValueError: there is no pattern; one matches nothing; no row's cost is paid by a player of these parameters.
    """
    patterns = [parameters] if isinstance(parameters, str) else parameters
    if not isinstance(patterns, Sequence) or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(f'parameters must be a pattern of names such as "model.4.*", or several, got {parameters!r}')
    players = game.players.values()
    named = [(player.role, f"{player.role}.{name}") for player in players for name in player.names]
    sizes = [size for player in players for size in player.sizes]
    for pattern in patterns or [""]:
        if not any(fnmatchcase(name, pattern) for _, name in named):
            shown = ", ".join(name for _, name in named[:_SHOWN]) + (", ..." if len(named) > _SHOWN else "")
            what = f"{pattern!r} of parameters matches none of them" if patterns else "parameters names none"
            raise ValueError(f"{what}: they are {shown}")
    chosen = [any(fnmatchcase(name, pattern) for pattern in patterns) for _, name in named]
    if not game.seeing & {role for (role, _), here in zip(named, chosen, strict=True) if here}:
        raise ValueError(
            f"parameters={parameters!r} are of no player whose cost looks at rows, {', '.join(sorted(game.seeing))}: "
            "held, those of such a player pass nothing on, and all scores would be 0"
        )
    return torch.tensor(chosen).repeat_interleave(torch.tensor(sizes)).nonzero().flatten()


class RestrictedField:
    """``A_SS`` of :class:`gan_influence.curvature.ShiftedField`, for the parameters S: a solver's operator of its own.

    Vectors have the m entries of S. A product is A's with zeros elsewhere, of which S is read off::

        (I - eta A_SS)^T w = ((I - eta A)^T P w)_S        P w: w at the places of S, 0 elsewhere

    Args:
        field: of all parameters.
        where: the places of S.
    """

    def __init__(self, field: ShiftedField, where: Int[Tensor, " m"]):
        self._field, self._where = field, where
        self.end, self.shift = field.end, field.shift[..., where]

    @property
    def eta(self) -> Float[Tensor, " m"]:
        return self._field.eta[self._where]

    def value(self) -> Float[Tensor, "*k m"]:
        return self._field.value()[..., self._where]

    def transpose_product(self, c: Float[Tensor, "*k m"]) -> Float[Tensor, "*k m"]:
        return self._field.transpose_product(self._placed(c))[..., self._where]

    def product(self, u: Float[Tensor, "*k m"]) -> Float[Tensor, "*k m"]:
        return self._field.product(self._placed(u))[..., self._where]

    def transpose_step(self, m: int, w: Float[Tensor, "k m"], eta: Float[Tensor, " m"]) -> Float[Tensor, "k m"]:
        return self._field.transpose_step(m, self._placed(w), self._placed(eta))[..., self._where]

    def repeats(self, m: int) -> bool:
        return self._field.repeats(m)

    def check_series(self, terms: int) -> None:
        self._field.check_series(terms)

    def apart(self) -> Iterator[AnyField]:
        return (RestrictedField(field, self._where) for field in self._field.apart())

    def where(self, rows: Bool[Tensor, " k"]) -> str:
        return self._field.where(rows)

    def weight_slopes(self, x: Float[Tensor, "*read k m"]) -> Float[Tensor, "*read k N"]:
        """``dE / dw_i`` of S alone: row i's gradient of the rest is left out."""
        return self._field.weight_slopes(self._placed(x))

    def _placed(self, vectors: Float[Tensor, "*k m"]) -> Float[Tensor, "*k d"]:
        """``P w``."""
        whole = vectors.new_zeros(*vectors.shape[:-1], self._field.theta.shape[-1])
        whole[..., self._where] = vectors
        return whole


AnyField: TypeAlias = ShiftedField | RestrictedField
