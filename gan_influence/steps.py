"""One step of training, and runs of steps: of one model, or of many at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from gan_influence.devices import repeatable
from gan_influence.game import Game, Rows
from gan_influence.optim import Phase, Updates
from gan_influence.recording import Recorded

if TYPE_CHECKING:
    from gan_influence.trace import StepInputs

__all__ = ["DivergenceError", "Steppable", "as_rows", "states", "step", "step_inputs"]

_CHECK_EVERY = 64  # a finiteness check costs about as much as a small kernel and, on a GPU, a synchronisation


class DivergenceError(RuntimeError):
    """Parameters stopped being finite.

    Attributes:
        step: the step whose update was the first not to be finite.
        player: whose parameters those are.
        model: which of the models trained together, ``()`` where there was one, ``(model,)`` or ``(run, model)``.
    """

    def __init__(self, step: int, player: str, part: str, model: tuple[int, ...], losses: tuple[int, str] | None):
        self.step, self.player, self.model = step, player, model
        before = f"no finite losses in the {_CHECK_EVERY} steps before"
        if losses is not None:
            before = f"last finite losses, at step {losses[0]}: {losses[1]}"
        super().__init__(
            f"training diverged at step {step}: the {player}'s {part} no longer finite ({before}). "
            "Lower the learning rate, shorten the run or add l2."
        )


class Steppable(Protocol):
    """A run, or several at once: what a step needs of them."""

    @property
    def game(self) -> Game: ...

    @property
    def updates(self) -> Updates: ...

    @property
    def recorded(self) -> dict[Any, Any]: ...

    def inputs(self, t: int) -> StepInputs: ...


def step(
    game: Game,
    updates: Updates,
    phases: tuple[Phase, ...],
    state: Float[Tensor, "*models rows d"],
    weights: Float[Tensor, "*models batch"],
    latents: Float[Tensor, "n_z *latent"],
    time: Float[Tensor, ""],
    *rows: Tensor,
) -> Float[Tensor, "*models rows d"]:
    """The state after one step: in each of its phases ``g = v_w(theta)``, ``state <- update(state, g)``."""
    for phase in phases:
        phi, psi = game.leaves(state[..., 0, :])
        gradient = game.gradient(phi, psi, as_rows(rows), latents, weights, phase.moving)
        state = updates(phase, time, state, torch.cat(gradient, dim=-1))
    return state


def states(
    trace: Steppable,
    state: Float[Tensor, "*models rows d"],
    weights: Float[Tensor, "*models N"],
    steps: Iterable[int],
) -> Iterator[tuple[int, Float[Tensor, "*models rows d"]]]:
    """Yield ``(t + 1, state after step t)`` for each ``t`` of ``steps``, of one model or of many.

    The first step reads ``state`` where the others read theirs, at the beginning of memory of its own: where numbers
    lie decides how kernels round and which of them convolve.

    Raises:
        DivergenceError: parameters stopped being finite, found at most 64 steps later and traced back.
    """
    state = state.clone()
    checked, since = state, []
    for t in steps:
        state = _recorded(trace, trace.updates.phases(t))(state, *step_inputs(trace.inputs(t), weights))
        since.append(t)
        if len(since) == _CHECK_EVERY:
            _check_finite(trace, checked, weights, since, state)
            checked, since = state, []
        yield t + 1, state
    _check_finite(trace, checked, weights, since, state)


def _recorded(trace: Steppable, phases: tuple[Phase, ...]) -> Recorded[Tensor]:
    key = trace.game, trace.updates, phases
    if key not in trace.recorded:
        trace.recorded[key] = Recorded(lambda *tensors: step(*key, *tensors))
    return trace.recorded[key]


def step_inputs(inputs: StepInputs, weights: Float[Tensor, "*models N"]) -> tuple[Tensor, ...]:
    """What a step takes besides the state, as tensors alone."""
    rows = inputs.rows if isinstance(inputs.rows, tuple) else (inputs.rows,)
    return inputs.of_batch(weights), inputs.latents, inputs.time, *rows


def as_rows(rows: tuple[Tensor, ...]) -> Rows:
    """The rows that :func:`step_inputs` took apart."""
    return rows[0] if len(rows) == 1 else rows


def _check_finite(trace: Steppable, before: Tensor, weights: Tensor, steps: list[int], after: Tensor) -> None:
    """Find the first step of ``steps``, leading from ``before`` to ``after``, whose update is not finite."""
    if after.isfinite().all():
        return
    replayed = [before]
    for t in steps:
        inputs = step_inputs(trace.inputs(t), weights)
        with repeatable(after.device):
            replayed.append(step(trace.game, trace.updates, trace.updates.phases(t), replayed[-1], *inputs))
        if not replayed[-1].isfinite().all():
            break
    else:
        raise RuntimeError(
            f"parameters stopped being finite between steps {steps[0]} and {steps[-1]}, but not when these steps were "
            "repeated: this device does not compute the same twice, see torch.use_deterministic_algorithms"
        )
    bad = ~replayed[-1].isfinite()
    model = tuple(bad.any(-1).any(-1).nonzero()[0].tolist())
    bad = bad[model]
    losses = None
    for earlier, state in zip(steps, replayed[:-1], strict=False):
        costs = _losses_of(trace, earlier, state[model], weights[model], model)
        if all(map(math.isfinite, costs.values())):
            losses = earlier, ", ".join(f"{role} {cost:.6g}" for role, cost in costs.items())
    part = "parameters are" if bad[0].any() else "optimiser state is"
    of_generator, _ = trace.game.split(bad[0] if bad[0].any() else bad.any(0))
    player = trace.game.generator if of_generator.any() else trace.game.discriminator
    raise DivergenceError(t, player.role, part, model, losses)


def _losses_of(trace: Steppable, t: int, state: Tensor, weights: Tensor, model: tuple[int, ...]) -> dict[str, float]:
    inputs = trace.inputs(t) if len(model) < 2 else trace.inputs(t).of_run(model[0])
    own = inputs.of_batch(weights)
    costs = trace.game.losses(*trace.game.split(state[0]), inputs.rows, inputs.latents, own)
    roles = (player.role for player in trace.game.players)
    named = {role: float(cost) for role, cost in zip(roles, costs, strict=True)}
    if trace.game.one_player:
        del named["generator"]
    return named
