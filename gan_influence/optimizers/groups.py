"""Several optimisers for one player, by the names of its parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from jaxtyping import Float
from torch import Tensor

from gan_influence.optimizers.protocol import LearningRate, Optimizer, check_optimizer, fitted
from gan_influence.optimizers.rates import rate_at

__all__ = ["BoundGroups", "Groups"]


@dataclass(frozen=True)
class Groups:
    """An optimiser for each group of parameters, as ``torch.optim`` has settings for each of its ``param_groups``.

    ``Groups(AdamW(1e-3), {"*.bias": AdamW(1e-3, weight_decay=0.0)})`` decays all but the biases. An optimiser sees its
    group's parameters together: one that clips by norm clips the group's.

    Args:
        default: of the parameters that no pattern matches.
        groups: an optimiser by a pattern of names, as in ``module.named_parameters()``: a name, or with ``*``, ``?``
            and ``[...]`` as in file names. Each must match a parameter of the player, and no two the same.

    Raises:
        TypeError: one is no optimiser; a pattern is no string.
    """

    default: Optimizer
    groups: Mapping[str, Optimizer]

    def __post_init__(self) -> None:
        check_optimizer("Groups' default", self.default)
        if not isinstance(self.groups, Mapping):
            raise TypeError(f'Groups needs its groups as {{"*.bias": SGD(lr=0.01)}}, got {self.groups!r}')
        for pattern, optimizer in self.groups.items():
            if not isinstance(pattern, str):
                raise TypeError(f'a pattern of Groups must be a string such as "*.bias", got {pattern!r}')
            check_optimizer(f"Groups' {pattern!r}", optimizer)

    @property
    def buffers(self) -> int:
        return max(one.buffers for one in (self.default, *self.groups.values()))

    @property
    def lr(self) -> float | Tensor | LearningRate:
        """That of the default; one a parameter are known once the parameters are."""
        return self.default.lr

    def update(self, step: Tensor, state: Tensor, gradient: Tensor) -> Tensor:
        raise TypeError(
            "Groups must be told the player's parameters first, as gan_influence.train does: "
            "Groups(...).fitted(names, shapes).update(...)"
        )

    def fitted(self, names: Sequence[str], shapes: Sequence[torch.Size]) -> BoundGroups:
        """The optimiser of these parameters.

        Raises:
            ValueError: a pattern matches none of them, or two match the same.
        """
        matching = [[pattern for pattern in self.groups if fnmatchcase(name, pattern)] for name in names]
        for name, patterns in zip(names, matching, strict=True):
            if len(patterns) > 1:
                both = f"{patterns[0]!r} and {patterns[1]!r}"
                raise ValueError(f"Groups' {both} both match {name!r}: narrow one of them")
        groups = []
        for one, patterns in [*((one, [pattern]) for pattern, one in self.groups.items()), (self.default, [])]:
            where = tuple(k for k, own in enumerate(matching) if own == patterns)
            if patterns and not where:
                raise ValueError(f"Groups' {patterns[0]!r} matches no parameter: they are {', '.join(names)}")
            if where:
                groups.append((fitted(one, [names[k] for k in where], [shapes[k] for k in where]), where))
        return BoundGroups(tuple(groups), tuple(shape.numel() for shape in shapes))


@dataclass(frozen=True)
class BoundGroups:
    """:class:`Groups` of the parameters of one player.

    Attributes:
        groups: each optimiser with the places of its parameters.
        sizes: of all parameters.
    """

    groups: tuple[tuple[Optimizer, tuple[int, ...]], ...]
    sizes: tuple[int, ...] = field(repr=False)

    @property
    def buffers(self) -> int:
        return max(one.buffers for one, _ in self.groups)

    @property
    def lr(self) -> Tensor | LearningRate:
        """One number a parameter, or a function that returns them."""
        return self._rates if any(callable(one.lr) for one, _ in self.groups) else self._rates(torch.tensor(0.0))

    @property
    def weight_decay(self) -> Float[Tensor, " d"]:
        return self._of_parameters([getattr(one, "weight_decay", 0.0) for one, _ in self.groups])

    def update(self, step: Tensor, state: Tensor, gradient: Tensor) -> Tensor:
        states, slopes = state.split(self.sizes, dim=-1), gradient.split(self.sizes, dim=-1)
        parts = []
        for one, where in self.groups:
            used, of_group = 1 + one.buffers, torch.cat([states[k] for k in where], dim=-1)
            after = one.update(step, of_group[..., :used, :], torch.cat([slopes[k] for k in where], dim=-1))
            parts.append(torch.cat([after, of_group[..., used:, :]], dim=-2))
        return self._in_order(parts)

    def _rates(self, step: Tensor) -> Tensor:
        return self._of_parameters([rate_at(one.lr, step) for one, _ in self.groups])

    def _of_parameters(self, numbers: Sequence[float | Tensor]) -> Tensor:
        """A number for each group, or numbers for its parameters, as one vector."""
        return self._in_order(
            [
                torch.as_tensor(number, dtype=torch.float64).expand(sum(self.sizes[k] for k in where))
                for number, (_, where) in zip(numbers, self.groups, strict=True)
            ]
        )

    def _in_order(self, parts: Sequence[Tensor]) -> Tensor:
        """The groups' parts of the last dimension in the order of the parameters."""
        placed: dict[int, Tensor] = {}
        for part, (_, where) in zip(parts, self.groups, strict=True):
            placed |= dict(zip(where, part.split([self.sizes[k] for k in where], dim=-1), strict=True))
        return torch.cat([placed[k] for k in range(len(self.sizes))], dim=-1)
