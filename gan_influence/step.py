"""One step of training, ``step(state, batch) -> state``, and runs of steps: of one model, or of many at once.

Everything here is a use of it: training iterates it, replay records it, the sweep pulls it back, a counterfactual runs
it with other weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from gan_influence.batch import Inputs
from gan_influence.divergence import CHECK_EVERY, check_finite
from gan_influence.game import Game
from gan_influence.replay.recorded import Recorded
from gan_influence.state import State
from gan_influence.updates import Phase, Updates

__all__ = ["Steppable", "recorded_step", "states", "step"]


class Steppable(Protocol):
    """A run, or several at once: what a step needs of them."""

    @property
    def game(self) -> Game: ...

    @property
    def updates(self) -> Updates: ...

    @property
    def recorded(self) -> dict[Any, Any]: ...

    def inputs(self, t: int, weights: Float[Tensor, "*models N"]) -> Inputs: ...


def step(game: Game, updates: Updates, phases: tuple[Phase, ...], state: State, batch: Inputs) -> State:
    """The state after one step: in each of its phases ``g = v_w(theta)``, ``state <- update(state, g)``."""
    moving, held = state
    for phase in phases:
        gradient, held = game.field(game.leaves(moving[..., 0, :]), batch, held, phase.moving)
        moving = updates(phase, batch.time, moving, torch.cat(gradient, dim=-1))
        held = updates.held_after(phase, batch.time, held)
    return State(moving, held)


def states(
    trace: Steppable, state: State, weights: Float[Tensor, "*models N"], steps: Iterable[int]
) -> Iterator[tuple[int, State]]:
    """Yield ``(t + 1, state after step t)`` for each ``t`` of ``steps``, of one model or of many.

    The first step reads ``state`` where the others read theirs, at the beginning of memory of its own: where numbers
    lie decides how kernels round and which of them convolve.

    Raises:
        DivergenceError: parameters stopped being finite, found at most 64 steps later and traced back.
    """
    state = state.clone()
    checked, since = state, []

    def again(t: int, state: State) -> State:
        return step(trace.game, trace.updates, trace.updates.phases(t), state, trace.inputs(t, weights))

    for t in steps:
        state = recorded_step(trace, t)(state, trace.inputs(t, weights).in_step)
        since.append(t)
        if len(since) == CHECK_EVERY:
            check_finite(trace, again, checked, weights, since, state)
            checked, since = state, []
        yield t + 1, state
    check_finite(trace, again, checked, weights, since, state)


def recorded_step(trace: Steppable, t: int) -> Recorded:
    """:func:`step` at step ``t``, of the state and the batch, recorded where steps repeat."""
    key = trace.game, trace.updates, trace.updates.phases(t)
    recorded = trace.recorded.get(key)
    if recorded is None:
        recorded = trace.recorded[key] = Recorded(lambda state, batch: step(*key, state, batch))
    return recorded
