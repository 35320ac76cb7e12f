"""Which step, and whose parameters, were the first not to be finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from gan_influence.devices import repeatable
from gan_influence.state import State

__all__ = ["CHECK_EVERY", "DivergenceError", "check_finite"]

CHECK_EVERY = 64  # a finiteness check costs about as much as a small kernel and, on a GPU, a synchronisation


class DivergenceError(RuntimeError):
    """Parameters stopped being finite.

    Attributes:
        step: the step whose update was the first not to be finite.
        player: whose parameters those are.
        model: which of the models trained together, ``()`` where there was one, ``(model,)`` or ``(run, model)``.
    """

    def __init__(self, step: int, player: str, part: str, model: tuple[int, ...], losses: tuple[int, str] | None):
        self.step, self.player, self.model = step, player, model
        before = f"no finite losses in the {CHECK_EVERY} steps before"
        if losses is not None:
            before = f"last finite losses, at step {losses[0]}: {losses[1]}"
        super().__init__(
            f"training diverged at step {step}: the {player}'s {part} no longer finite ({before}). "
            "Lower the learning rate, shorten the run or add l2."
        )


def check_finite(
    run: Any,
    step: Callable[[int, State], State],
    before: State,
    weights: Float[Tensor, "*models N"],
    steps: list[int],
    after: State,
) -> None:
    """Find the first step of ``steps``, leading from ``before`` to ``after``, whose update is not finite.

    Args:
        run: a :class:`gan_influence.step.Steppable`.
        step: ``(t, state) -> state``, step t of the run.
        before, weights, steps, after: the states around these steps of a run with these weights.

    Raises:
        DivergenceError: there is one.
        RuntimeError: there is one, but not when the steps are repeated.
    """
    if after.moving.isfinite().all():
        return
    replayed = [before]
    for t in steps:
        with repeatable(after.moving.device):
            replayed.append(step(t, replayed[-1]))
        if not replayed[-1].moving.isfinite().all():
            break
    else:
        raise RuntimeError(
            f"parameters stopped being finite between steps {steps[0]} and {steps[-1]}, but not when these steps were "
            "repeated: this device does not compute the same twice, see torch.use_deterministic_algorithms"
        )
    bad = ~replayed[-1].moving.isfinite()
    model = tuple(bad.any(-1).any(-1).nonzero()[0].tolist())
    bad = bad[model]
    losses = None
    for earlier, state in zip(steps, replayed[:-1], strict=False):
        costs = _losses_of(run, earlier, state, weights, model)
        if all(map(math.isfinite, costs.values())):
            losses = earlier, ", ".join(f"{role} {cost:.6g}" for role, cost in costs.items())
    part = "parameters are" if bad[0].any() else "optimiser state is"
    of_players = run.game.split(bad[0] if bad[0].any() else bad.any(0))
    player = next(name for name, of in zip(run.game.players, of_players, strict=True) if of.any())
    raise DivergenceError(t, player, part, model, losses)


def _losses_of(run: Any, t: int, state: State, weights: Tensor, model: tuple[int, ...]) -> dict[str, float]:
    inputs = run.inputs(t, weights).of_model(model)
    moving, held = state.at(model)
    costs, _ = run.game.losses(moving[0], inputs, held)
    return {name: float(costs[name]) for name in run.game.players if name in costs}
