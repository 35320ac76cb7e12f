"""What a step reads and writes, and what a run starts from besides the modules' parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from gan_influence.checks import is_whole

__all__ = ["Held", "Start", "State", "expanded"]

Held = dict[str, Tensor]


def expanded(held: Held, models: Sequence[int]) -> Held:
    """The same buffers for each of several models: with these leading dimensions."""
    return {name: value.expand((*models, *value.shape)) for name, value in held.items()}


class State(NamedTuple):
    """A run between two steps.

    Attributes:
        moving: parameters, then what optimisers remember of them, then the average: derivatives pass through.
        held: the buffers that calls of the modules change, by ``"player.buffer"``: replayed, not differentiated.
    """

    moving: Float[Tensor, "*models rows d"]
    held: Held

    def clone(self) -> State:
        """A copy."""
        return State(self.moving.clone(), {name: value.clone() for name, value in self.held.items()})

    def at(self, which: Any) -> State:
        """One of several, ``which`` on each part's leading dimensions."""
        return State(self.moving[which], {name: value[which] for name, value in self.held.items()})


@dataclass(frozen=True)
class Start:
    """Where a run goes on that was begun elsewhere, ``gi.train(..., start=gi.Start(...))``.

    The parameters, and buffers such as running statistics, are the modules' own. What else a run had:

    Args:
        optimizer: ``{player: state_dict}``, each of the ``torch.optim`` optimiser that moved the player; or one state
            dict, of a one-player game.
        average: the averaged player's ``state_dict()``, where training averages one; or ``{player: state_dict}``.
        step: how many steps were done: schedules, rates and penalties count from there.

    Raises:
        TypeError, ValueError: ``step`` is no whole number >= 0; a part is no state dict.
    """

    optimizer: Mapping[str, Any] = field(default_factory=dict)
    average: Mapping[str, Any] | None = None
    step: int = 0

    def __post_init__(self) -> None:
        if not is_whole(self.step) or self.step < 0:
            raise ValueError(f"step must be how many steps were done, a whole number >= 0, got {self.step!r}")
        for name, part in (("optimizer", self.optimizer), ("average", self.average or {})):
            if not isinstance(part, Mapping):
                raise TypeError(f"Start's {name} must be a state dict or a dict of them, got {type(part).__name__}")
