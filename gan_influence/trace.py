"""What training remembers: enough to evaluate, replay and differentiate every step."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from gan_influence import trees
from gan_influence.batch import Batch, Inputs
from gan_influence.checks import is_whole
from gan_influence.game import Game
from gan_influence.history import DamagedFileError, History
from gan_influence.players import Players
from gan_influence.schedules import Minibatches, Schedule
from gan_influence.state import Held, State
from gan_influence.step import states
from gan_influence.surroundings import undisturbed, warn
from gan_influence.trees import Tree
from gan_influence.updates import Updates

__all__ = ["Trace"]


def _there(tree: Tree, device: torch.device) -> Tree:
    """On the device, and none of those tensors that ``torch.inference_mode`` makes: no backward pass may keep them."""
    if isinstance(tree, Tensor):
        tensor = tree.to(device)
        return tensor.clone() if tensor.is_inference() else tensor
    return None if tree is None else trees.mapped(lambda leaf: _there(leaf, device), tree)


@dataclass(frozen=True, eq=False)
class Trace:
    """A finished training run, from step ``first`` to step ``steps``.

    Made by :func:`gan_influence.train` and :func:`gan_influence.retrain`. It holds copies of the modules, so later
    changes to the caller's modules do not reach it.

    Attributes:
        game: the game, with its own copies of all modules.
        data: the training rows, a tree of tensors, first dimension N.
        schedule: which batch each step used.
        updates: the players' optimisers, the order of their moves, the averages.
        weights: ``(N,)``, each row's weight: 1, or 0 where it was removed.
        history: the states: parameters, the optimisers' buffers, the average, ``(rows, d)``; and the modules' buffers.
        keep_graphs: see :class:`gan_influence.Checkpoint`.
        recorded: what was recorded of this game, steps, sweeps and products, shared with its retrainings.
        losses: what was asked for by ``record=``: ``{player: (n,)}``, and under ``"step"`` the n steps.
    """

    game: Game
    data: Tree
    schedule: Schedule
    updates: Updates
    weights: Float[Tensor, " N"]
    history: History
    keep_graphs: bool = False
    recorded: dict[Any, Any] = field(default_factory=dict, repr=False)
    losses: dict[str, Tensor] = field(default_factory=dict, repr=False)
    _segment: dict[int, State] = field(default_factory=dict, repr=False)

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
        """The moving part of all states, ``(steps - first + 1, rows, d)``.

        Raises:
            ValueError: the run keeps only some of them.
        """
        if self.history.states is None:
            raise ValueError("this run keeps checkpoints only: ask for one state at a time, with trace.state(step)")
        return self.history.states.moving

    def __repr__(self) -> str:
        return (
            f"Trace(steps={self.steps}, first={self.first}, rows={self.size}, parameters={self.game.size}, "
            f"removed={int((self.weights == 0).sum())})"
        )

    def state(self, step: int = -1) -> State:
        """Parameters, optimiser buffers, average and modules' buffers after ``step`` steps; ``-1`` is the end.

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
    def _replayed(self, begin: int, t: int) -> State:
        """The state of step ``t``, by way of the segment that starts with the kept state of step ``begin``."""
        if t not in self._segment:
            self._segment.clear()
            end = min(begin + self.history.every, self.steps)
            self._segment.update(states(self, self._checkpoint(begin), self.weights, range(begin, end)))
            self.check_replay(end, self._segment.pop(end))
        return self._segment[t]

    def check_replay(self, t: int, state: State) -> None:
        """Has a replay led to the state that training kept of step ``t``, if it kept one?

        Raises:
            RuntimeError: it has not.
        """
        if self.history.before(t) == t and not trees.same_bits(state, self._checkpoint(t)):
            raise RuntimeError(
                f"a replay up to step {t} did not lead to the state that training kept: the modules' or the "
                "schedule's code has changed, or the number of threads (torch.set_num_threads, now "
                f"{torch.get_num_threads()}), or this device does not compute the same twice"
            )

    def segments(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """``(begin, end)`` of the pieces of the steps from ``start`` to ``stop`` between kept states, last first."""
        ends = [start, *self.history.kept(start + 1, stop - 1), stop] if self.history.states is None else [start, stop]
        return zip(reversed(ends[:-1]), reversed(ends[1:]), strict=True) if stop > start else iter(())

    def _checkpoint(self, t: int) -> State:
        try:
            return self.history.load(t)
        except DamagedFileError as error:
            begin = self.history.before(t - 1)
            warn(f"{error}: it is computed again, from step {begin}")
            *_, (_, state) = states(self, self._checkpoint(begin), self.weights, range(begin, t))
            self.history.keep(t, state)
            return state

    def theta(self, step: int = -1) -> Float[Tensor, " d"]:
        """``theta^(step)``, of a GAN ``(phi, psi)``; ``-1`` is the end."""
        return self.state(step).moving[0]

    def seen(self, step: int = -1) -> Float[Tensor, " d"]:
        """``theta`` as a metric sees it: with the averaged generator, where there is one."""
        return self.state(step).moving[self.updates.seen]

    def held(self, step: int = -1) -> Held:
        """The modules' buffers that calls change, as a metric sees them in eval mode."""
        with torch.no_grad():
            return self.players(step).looked_at()

    def parameters(self, step: int = -1, *, averaged: bool = False) -> dict[str, dict[str, Tensor]]:
        """The players' parameters by name, ``{"generator": {...}, "discriminator": {...}}``, after ``step`` steps.

        Those that training moves; metrics and scores are about ``averaged=True``, in which the generator is the average
        where ``ema_decay`` makes one. :meth:`module` has buffers and frozen weights besides.
        """
        return self.game.parameters((self.seen(step) if averaged else self.theta(step)).clone())

    def module(self, player: str, step: int = -1, *, averaged: bool = False) -> nn.Module:
        """A copy of the player's module as it was after ``step`` steps, buffers included: to export, or to go on with.

        Args:
            player: its name.
            step: ``-1`` is the end.
            averaged: with the average in place of the parameters, where ``ema_decay`` makes one, as a metric sees it.

        Raises:
            ValueError: there is no such player.
        """
        if player not in self.game.players:
            raise ValueError(f"there is no player {player!r}; the players are {', '.join(self.game.players)}")
        module = copy.deepcopy(self.game.players[player].module)
        held = self.held(step) if averaged else self.state(step).held
        own = {name: held[f"{player}.{name}"] for name in self.game.players[player].held}
        with torch.no_grad():
            for name, value in self.parameters(step, averaged=averaged)[player].items():
                module.get_parameter(name).copy_(value)
            for name, value in own.items():
                module.get_buffer(name).copy_(value)
        return module

    def save(self, path: str | os.PathLike) -> None:
        """Write the run to a file, for :func:`gan_influence.load_trace`: its states and weights, and no code.

        Of the game, the data, the schedule and the optimisers it holds digests, by which they are known again.

        Raises:
            OSError: the file cannot be written.
        """
        from gan_influence.saving import save  # which knows how runs begin, and so stands above this file

        save(self, path)

    def players(self, step: int = -1, mode: str = "eval") -> Players:
        """The players after ``step`` steps, as a metric sees them."""
        state = self.state(step)
        held = self.updates.seen_held(state.held)
        return Players(self.game, state.moving[self.updates.seen], held, mode=mode)

    def batch(self, t: int) -> Batch:
        """What the schedule gives for step ``t``, checked: row indices as int64, latents and noise.

        Raises:
            IndexError: it names rows that are not there, or none.
            TypeError: it is no batch, or its indices are no tensor of integers.
        """
        given = self._scheduled(t)
        if isinstance(given, Batch) and given.indices is None:
            return given
        if not isinstance(given, tuple) or not 2 <= len(given) <= 3:
            raise TypeError(
                f"the schedule must give gi.Batch(indices, latents, noise) of step {t}, got {type(given).__name__}"
            )
        indices, *drawn = given
        if indices is None:
            return Batch(None, *drawn)
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
        return Batch(indices.long(), *drawn)  # of uint8, indexing would make a mask

    def _scheduled(self, t: int) -> Batch:
        """In a cycle an epoch counts the steps that look at rows alone."""
        if not isinstance(self.schedule, Minibatches) or len(self.updates.cycle) == 1:
            return self.schedule(t)
        return self.schedule.at(t, self.updates.looks(t, self.game.seeing))

    def inputs(self, t: int, weights: Float[Tensor, "*models N"] | None = None) -> Inputs:
        """What step ``t`` sees, on the trace's device: with these weights, by default the run's own."""
        weights = self.weights if weights is None else weights
        indices, latents, noise = self.batch(t)
        device = self.weights.device
        latents, noise = _there(latents, device), _there(noise, device)
        time, turn = self.weights.new_full((), t, dtype=torch.float64), t % self.game.period
        if indices is None:
            return Inputs(self.data, latents, noise, weights, time, turn)
        indices = indices.to(device)
        rows = self.data[indices] if isinstance(self.data, Tensor) else trees.take(self.data, indices)
        return Inputs(rows, latents, noise, weights[..., indices], time, turn, indices)

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
