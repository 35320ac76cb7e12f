"""What training remembers: enough to evaluate, replay and differentiate every step."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gan_influence.checkpoint import DamagedFileError, History
from gan_influence.checks import is_whole
from gan_influence.game import Game, Players, Rows
from gan_influence.optim import Updates
from gan_influence.schedule import Batch, Schedule
from gan_influence.steps import states
from gan_influence.surroundings import undisturbed

__all__ = ["StepInputs", "Trace"]


class StepInputs(NamedTuple):
    """What the game sees at step ``time``. ``indices`` is ``None`` where the batch is the whole of the data.

    ``rows`` are pairs ``(inputs, targets)``, and ``latents`` empty, in a one-player game. Those of several runs
    have a leading dimension, but for ``time``.
    """

    rows: Rows
    latents: Float[Tensor, "n_z *latent"]
    indices: Int[Tensor, " batch"] | None
    time: Float[Tensor, ""]

    def of_batch(self, per_row: Float[Tensor, "*models N"]) -> Float[Tensor, "*models batch"]:
        """The entries of a per-row quantity that belong to this batch."""
        if self.indices is None:
            return per_row
        if self.indices.ndim == 1:
            return per_row[..., self.indices]
        return per_row.take_along_dim(self.indices.unsqueeze(1), dim=-1)

    @classmethod
    def of_runs(cls, runs: list[StepInputs]) -> StepInputs:
        """The same step of several runs.

        Raises:
            ValueError: their batches differ in shape.
        """
        first = runs[0]
        try:
            rows = _stacked([run.rows for run in runs])
            latents = torch.stack([run.latents for run in runs])
            indices = None
            if any(run.indices is not None for run in runs):
                indices = torch.stack([run.indices for run in runs])  # type: ignore[misc]
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"the runs' batches of step {int(first.time)} differ in shape: {error}") from error
        return cls(rows, latents, indices, first.time)

    def of_run(self, run: int) -> StepInputs:
        """One of the runs that :meth:`of_runs` put together."""
        rows = tuple(part[run] for part in self.rows) if isinstance(self.rows, tuple) else self.rows[run]
        return StepInputs(rows, self.latents[run], None if self.indices is None else self.indices[run], self.time)

    def add_to_rows(self, per_row: Float[Tensor, "*stops N"], terms: Float[Tensor, "*stops batch"]) -> None:
        """Add the batch's terms to the rows they belong to, in place."""
        if self.indices is None:
            per_row += terms
        else:
            per_row.index_add_(-1, self.indices, terms.to(per_row.dtype))


def _ordinary(tensor: Tensor) -> Tensor:
    """Not one of those that ``torch.inference_mode`` makes, which no backward pass may keep."""
    return tensor.clone() if tensor.is_inference() else tensor


def _stacked(rows: list[Rows]) -> Rows:
    if isinstance(rows[0], Tensor):
        return torch.stack(rows)
    return tuple(torch.stack(parts) for parts in zip(*rows, strict=True))


@dataclass(frozen=True, eq=False)
class Trace:
    """A finished training run, from step ``first`` to step ``steps``.

    Made by :func:`gan_influence.train` and :func:`gan_influence.retrain`. It holds copies of the modules, so later
    changes to the caller's modules do not reach it.

    Attributes:
        game: the game, with its own copies of both modules.
        data: the training rows, ``(N, *instance_shape)``; in a one-player game ``(inputs, targets)``.
        schedule: which batch each step used.
        updates: both players' optimisers, the order of their moves, the generator's average.
        weights: ``(N,)``, each row's weight: 1, or 0 where it was removed.
        history: the states, ``(rows, d)`` each: the parameters, the optimisers' buffers, the average.
        keep_graphs: see :class:`gan_influence.Checkpoint`.
        recorded: what was recorded of this game, steps, sweeps and products, shared with its retrainings.
    """

    game: Game
    data: Rows
    schedule: Schedule
    updates: Updates
    weights: Float[Tensor, " N"]
    history: History
    keep_graphs: bool = False
    recorded: dict[Any, Any] = field(default_factory=dict, repr=False)
    _segment: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """A copy, or a file, does without the recordings: they are made again."""
        return {**self.__dict__, "recorded": {}}

    @property
    def first(self) -> int:
        """The step of the first state; 0 unless only the last steps were retrained."""
        return self.history.first

    @property
    def steps(self) -> int:
        """``T``, how many steps had been taken at the end."""
        return self.history.last

    @property
    def size(self) -> int:
        """``N``, how many training rows there are."""
        return len(self.weights)

    @property
    def states(self) -> Float[Tensor, "times rows d"]:
        """All states, ``(steps - first + 1, rows, d)``.

        Raises:
            ValueError: the run keeps only some of them.
        """
        if self.history.states is None:
            raise ValueError("this run keeps checkpoints only: ask for one state at a time, with trace.state(step)")
        return self.history.states

    def __repr__(self) -> str:
        return (
            f"Trace(steps={self.steps}, first={self.first}, rows={self.size}, parameters={self.game.size}, "
            f"removed={int((self.weights == 0).sum())})"
        )

    def state(self, step: int = -1) -> Float[Tensor, "rows d"]:
        """Parameters, optimiser buffers and average after ``step`` steps; ``-1`` is the end.

        A state that was not kept is replayed from the checkpoint before it, together with all up to the next one,
        which stay in memory until another segment is asked for.

        Raises:
            IndexError: the run has no such step.
        """
        t = self.steps + 1 + step if step < 0 else step
        if not self.first <= t <= self.steps:
            raise IndexError(f"step {step} is not in this trace, which holds steps {self.first} to {self.steps}")
        begin = self.history.before(t)
        if begin == t:
            return self._checkpoint(t).clone()  # aligned as a step's own result is; see states()
        return self._replayed(begin, t)

    @undisturbed
    def _replayed(self, begin: int, t: int) -> Float[Tensor, "rows d"]:
        """The state of step ``t``, by way of the segment that starts with the kept state of step ``begin``."""
        if t not in self._segment:
            self._segment.clear()
            end = min(begin + self.history.every, self.steps)
            self._segment.update(states(self, self._checkpoint(begin), self.weights, range(begin, end)))
            self.check_replay(end, self._segment.pop(end))
        return self._segment[t]

    def check_replay(self, t: int, state: Float[Tensor, "rows d"]) -> None:
        """Has a replay led to the state that training kept of step ``t``, if it kept one?

        Raises:
            RuntimeError: it has not.
        """
        if self.history.before(t) == t and not torch.equal(state, self._checkpoint(t)):
            raise RuntimeError(
                f"a replay up to step {t} did not lead to the state that training kept: the modules' or the "
                "schedule's code has changed, or this device does not compute the same twice"
            )

    def segments(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """``(begin, end)`` of the pieces of the steps from ``start`` to ``stop`` between kept states, last first."""
        ends = [start, *self.history.kept(start + 1, stop - 1), stop] if self.history.states is None else [start, stop]
        return zip(reversed(ends[:-1]), reversed(ends[1:]), strict=True) if stop > start else iter(())

    def _checkpoint(self, t: int) -> Float[Tensor, "rows d"]:
        try:
            return self.history.load(t)
        except DamagedFileError as error:
            begin = self.history.before(t - 1)
            warnings.warn(f"{error}: it is computed again, from step {begin}", RuntimeWarning, stacklevel=3)
            *_, (_, state) = states(self, self._checkpoint(begin), self.weights, range(begin, t))
            self.history.keep(t, state)
            return state

    def theta(self, step: int = -1) -> Float[Tensor, " d"]:
        """``theta^(step) = (phi, psi)``; ``-1`` is the end."""
        return self.state(step)[0]

    def seen(self, step: int = -1) -> Float[Tensor, " d"]:
        """``(phi, psi)`` as a metric sees them: with the averaged generator, where there is one."""
        return self.state(step)[self.updates.seen]

    def parameters(self, step: int = -1, *, averaged: bool = False) -> dict[str, dict[str, Tensor]]:
        """The players' parameters by name, ``{"generator": {...}, "discriminator": {...}}``, after ``step`` steps.

        Those that training moves; metrics and scores are about ``averaged=True``, in which the generator is the average
        where ``ema_decay`` makes one. Buffers and frozen weights are not among them: ``trace.game.generator.module``
        holds those, and ``load_state_dict(..., strict=False)`` puts both together.
        """
        return self.game.parameters((self.seen(step) if averaged else self.theta(step)).clone())

    def players(self, step: int = -1) -> Players:
        """The players after ``step`` steps, as a metric sees them."""
        return Players(self.game, *self.game.split(self.seen(step)))

    def batch(self, t: int) -> Batch:
        """What the schedule gives for step ``t``, checked: row indices as int64, and latents.

        Raises:
            IndexError: it names rows that are not there, or none.
            TypeError: it is no batch, or its indices are no tensor of integers.
        """
        given = self.schedule(t)
        if not isinstance(given, tuple) or len(given) != 2:
            raise TypeError(
                f"the schedule must give gi.Batch(indices, latents) of step {t}, got {type(given).__name__}"
            )
        indices, latents = given
        if indices is None:
            return given if isinstance(given, Batch) else Batch(None, latents)
        if not isinstance(indices, Tensor) or indices.dtype.is_floating_point or indices.dtype == torch.bool:
            kind = indices.dtype if isinstance(indices, Tensor) else type(indices).__name__
            raise TypeError(
                f"the schedule's batch of step {t} must name rows by a tensor of integers, torch.tensor([3, 17, ...]), "
                f"got {kind}"
            )
        if indices.ndim != 1 or len(indices) == 0 or int(indices.min()) < 0 or int(indices.max()) >= self.size:
            raise IndexError(
                f"the schedule's batch of step {t} must name rows from 0 to {self.size - 1}, at least one, "
                f"got {indices.tolist()[:8]}"
            )
        return Batch(indices.long(), latents)  # of uint8, indexing would make a mask

    def inputs(self, t: int) -> StepInputs:
        """The rows and latents of step ``t``, on the trace's device."""
        indices, latents = self.batch(t)
        device = self.weights.device
        latents = self.weights.new_empty(0) if latents is None else _ordinary(latents.to(device))
        time = self.weights.new_full((), t, dtype=torch.float64)
        if indices is None:
            return StepInputs(self.data, latents, None, time)
        indices = indices.to(device)
        rows = tuple(part[indices] for part in self.data) if isinstance(self.data, tuple) else self.data[indices]
        return StepInputs(rows, latents, indices, time)

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
        stops = at.tolist() if isinstance(at, Tensor | np.ndarray) and at.ndim == 1 else at
        stops = list(stops) if isinstance(stops, Iterable) else []
        if not stops or not all(is_whole(stop) and self.first <= stop <= self.steps for stop in stops):
            raise ValueError(f"at must name steps from {self.first} to {self.steps}, which the trace holds, got {at!r}")
        return stops
