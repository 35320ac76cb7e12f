"""What training remembers: enough to evaluate, replay and differentiate every step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gan_influence.checks import is_whole
from gan_influence.game import Game, Players
from gan_influence.optim import Updates
from gan_influence.schedule import Schedule

__all__ = ["StepInputs", "Trace"]


class StepInputs(NamedTuple):
    """What the game sees at step ``time``. ``indices`` is ``None`` where the batch is the whole of the data."""

    rows: Float[Tensor, "batch *instance"]
    latents: Float[Tensor, "n_z *latent"]
    indices: Int[Tensor, " batch"] | None
    time: Float[Tensor, ""]

    def of_batch(self, per_row: Float[Tensor, "*models N"]) -> Float[Tensor, "*models batch"]:
        """The entries of a per-row quantity that belong to this batch."""
        return per_row if self.indices is None else per_row[..., self.indices]

    def add_to_rows(self, per_row: Float[Tensor, "*stops N"], terms: Float[Tensor, "*stops batch"]) -> None:
        """Add the batch's terms to the rows they belong to, in place."""
        if self.indices is None:
            per_row += terms
        else:
            per_row.index_add_(-1, self.indices, terms.to(per_row.dtype))


@dataclass(frozen=True, eq=False)
class Trace:
    """A finished training run, from step ``first`` to step ``steps``.

    Made by :func:`gan_influence.train` and :func:`gan_influence.retrain`. It holds copies of the modules, so later
    changes to the caller's modules do not reach it.

    Attributes:
        game: the game, with its own copies of both modules.
        data: the training rows, ``(N, *instance_shape)``.
        schedule: which batch each step used.
        updates: both players' optimisers.
        weights: ``(N,)``, each row's weight: 1, or 0 where it was removed.
        states: ``(steps - first + 1, 1 + buffers, d)``, the parameters and the optimisers' buffers at every step.
        first: the step of ``states[0]``; 0 unless only the last steps were retrained.
    """

    game: Game
    data: Float[Tensor, "N *instance"]
    schedule: Schedule
    updates: Updates
    weights: Float[Tensor, " N"]
    states: Float[Tensor, "times rows d"]
    first: int = 0

    @property
    def steps(self) -> int:
        """``T``, how many steps had been taken at the end."""
        return self.first + len(self.states) - 1

    def __repr__(self) -> str:
        return (
            f"Trace(steps={self.steps}, first={self.first}, rows={len(self.data)}, parameters={self.game.size}, "
            f"removed={int((self.weights == 0).sum())})"
        )

    def state(self, step: int = -1) -> Float[Tensor, "rows d"]:
        """Parameters and optimiser buffers after ``step`` steps; ``-1`` is the end.

        Raises:
            IndexError: the run has no such step.
        """
        taken = self.steps + 1 + step if step < 0 else step
        if not self.first <= taken <= self.steps:
            raise IndexError(f"step {step} is not in this trace, which holds steps {self.first} to {self.steps}")
        return self.states[taken - self.first]

    def theta(self, step: int = -1) -> Float[Tensor, " d"]:
        """``theta^(step) = (phi, psi)``; ``-1`` is the end."""
        return self.state(step)[0]

    def parameters(self, step: int = -1) -> dict[str, dict[str, Tensor]]:
        """Both players' parameters by name, ``{"generator": {...}, "discriminator": {...}}``, after ``step`` steps."""
        return self.game.parameters(self.theta(step).clone())

    def players(self, step: int = -1) -> Players:
        """Both players after ``step`` steps, as a metric sees them."""
        return Players(self.game, *self.game.split(self.theta(step)))

    def inputs(self, t: int) -> StepInputs:
        """The rows and latents of step ``t``, on the trace's device."""
        indices, latents = self.schedule(t)
        latents = latents.to(self.data.device)
        time = self.data.new_tensor(t)
        if indices is None:
            return StepInputs(self.data, latents, None, time)
        if len(indices) == 0 or int(indices.min()) < 0 or int(indices.max()) >= len(self.data):
            raise IndexError(
                f"the schedule's batch of step {t} must name rows from 0 to {len(self.data) - 1}, at least one, "
                f"got {indices.tolist()[:8]}"
            )
        indices = indices.to(self.data.device)
        return StepInputs(self.data[indices], latents, indices, time)

    def window(self, last: int | None) -> int:
        """The first step of the last ``last`` steps; all steps where it is ``None``.

        Raises:
            ValueError: ``last`` is negative or the trace holds fewer steps.
        """
        held = self.steps - self.first
        if last is None:
            return self.first
        if not is_whole(last) or not 0 <= last <= held:
            raise ValueError(f"last must be a number of steps from 0 to {held}, which the trace holds, got {last!r}")
        return self.steps - last

    def stops(self, at: Iterable[int]) -> list[int]:
        """The stopping times ``at``, checked.

        Raises:
            ValueError: ``at`` is empty or names a step that the trace does not hold.
        """
        stops = list(at) if isinstance(at, Iterable) else []
        if not stops or not all(is_whole(stop) and self.first <= stop <= self.steps for stop in stops):
            raise ValueError(f"at must name steps from {self.first} to {self.steps}, which the trace holds, got {at!r}")
        return stops

    def thetas(self, stops: list[int]) -> Float[Tensor, "stops d"]:
        """``theta`` at each of these steps."""
        return torch.stack([self.theta(stop) for stop in stops])
