"""Who moves when: the order of the players' moves, their optimisers, the averages; forwards, and pulled back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from gan_influence.checks import is_real
from gan_influence.game import Game
from gan_influence.optimizers import Optimizer, fitted, from_torch, rates_of
from gan_influence.running_statistics import Recompute
from gan_influence.state import Held, Start

__all__ = ["ORDERS", "Cycle", "Decay", "Optimizers", "Phase", "Updates"]

_AVERAGE = "average of "  # begins the name of a buffer's average

ORDERS = ("simultaneous", "alternating", "turns")
Optimizers: TypeAlias = Optimizer | Sequence[Optimizer] | Mapping[str, Optimizer]
Cycle: TypeAlias = str | Sequence[str | Sequence[str]]
Decay: TypeAlias = float | Callable[[Float[Tensor, ""]], Float[Tensor, ""]]


class Phase(NamedTuple):
    """A part of a step: who moves in it, from the same state, and whether it is the step's last."""

    moving: frozenset[str]
    ends_step: bool


class Updates:
    """How a state moves: the players' optimisers, the order of their moves, and the averages.

    Args:
        optimizer: one for all players, ``{player: optimizer}``, or as many as there are players, in their order.
        game: whose players. One without parameters needs no optimiser.
        update: ``"simultaneous"``: all move at once, from the same state (TNNLS eq. 3, ICLR eq. 3).
            ``"alternating"``: within a step they move one after another, in the game's order, and see who moved before:
            of a GAN the discriminator first. ``"turns"``: a step moves one player, in that order (ICLR Appendix A). Or
            a cycle: step t moves entry t mod its length, a player, or several at once from the same state:
            ``["discriminator"] * 5 + ["generator"]``. An optimiser's ``step`` counts its player's own updates.
        decay: of the average ``a <- decay * a + (1 - decay) * theta`` after each step, from the initial parameters on,
            a number or a function of t made of torch operations; of the generator, or ``{player: decay}``.
        start: what the run goes on from; see :class:`gan_influence.Start`.
        average_buffers: of an averaged player a metric sees running statistics and the like: ``"copy"``, those that
            training has reached; ``"average"``, averaged as the parameters are; or a :class:`Recompute`.

    Attributes:
        optimizers: by player, those with parameters alone.
        cycle: the phases of each entry.
        recomputing: the player whose running statistics are made anew for a metric, if one is.
        rows: of a state.
        seen: the row that a metric sees: 0, or the last where a player is averaged. There it holds the average beside
            the other players' own parameters.

    Raises:
        TypeError: something given is no optimiser.
        ValueError: an unknown order or player; a cycle that never moves a player; turns of one player; a decay outside
            [0, 1); an optimiser state that does not fit.
    """

    def __init__(
        self,
        optimizer: Optimizers,
        game: Game,
        update: Cycle = "simultaneous",
        decay: Decay | Mapping[str, Decay] | None = None,
        start: Start | None = None,
        average_buffers: str | Recompute | None = None,
    ):
        self.names = [name for name, player in game.players.items() if player.size]
        given = _by_player(optimizer, game, self.names)
        fit = {name: (player.names, player.shapes) for name, player in game.players.items()}
        self.optimizers = {name: fitted(given[name], *fit[name]) for name in self.names}
        self.sizes = game.sizes
        self._all = tuple(game.players)
        self.update = update
        self.cycle = _cycle(update, game, self.names)
        self._before = {name: _moves_before(name, self.cycle) for name in self.names}
        self.decays = _decays(decay, game)
        self.core = 1 + max(one.buffers for one in self.optimizers.values())
        self.rows = self.core + bool(self.decays)
        self.seen = self.rows - 1 if self.decays else 0
        self.average_buffers = average_buffers
        self.recomputing = _recomputing(average_buffers, self.decays, game)
        self._start = start or Start()
        self._begun = self._buffers_of(self._start, game)
        self._keep = self._of_players(game.theta(), {name: _constant(decay) for name, decay in self.decays.items()})
        self._shared = self._is_one_call()

    def start(self, theta: Float[Tensor, " d"], game: Game) -> Float[Tensor, "rows d"]:
        """The state before the first step: the parameters, buffers (zeros in a new run), and the average."""
        state = theta.new_zeros(self.rows, theta.shape[-1])
        state[0] = state[self.seen] = theta
        parts = dict(zip(self._all, state.split(self.sizes, dim=-1), strict=True))
        for name, (buffers, _) in self._begun.items():
            parts[name][1 : 1 + len(buffers)] = buffers
        for name, average in _averages(self._start, self.decays).items():
            parts[name][self.seen] = game.players[name].flattened(average, f"Start's average of the {name}")
        return state

    def phases(self, t: int) -> tuple[Phase, ...]:
        """The parts of step ``t``, in order."""
        return self.cycle[t % len(self.cycle)]

    def moves(self, name: str, t: int) -> int:
        """How often a player has moved before step ``t``."""
        whole, rest = divmod(t, len(self.cycle))
        before = self._before[name]
        return whole * before[-1] + before[rest]

    def check_rates(self, last: int) -> None:
        """Do tables of rates go on up to step ``last``?

        Raises:
            ValueError: one does not.
        """
        for name, one in self.optimizers.items():
            made_for, wanted = getattr(one.lr, "steps", None), int(self._last_update(name, max(last - 1, 0))) + 1
            if made_for is not None and wanted > made_for and last:
                raise ValueError(
                    f"the {name}'s rates are made for {made_for} updates, but it makes {wanted} up to step {last}: "
                    "give TorchRates more steps"
                )

    def looks(self, t: int, seeing: frozenset[str]) -> int:
        """How many of the steps before ``t`` move one of these players."""
        does = [any(phase.moving & seeing for phase in phases) for phases in self.cycle]
        whole, rest = divmod(t, len(does))
        return whole * sum(does) + sum(does[:rest])

    def __call__(
        self,
        phase: Phase,
        time: Float[Tensor, ""],
        state: Float[Tensor, "*models rows d"],
        gradient: Float[Tensor, "*models d"],
    ) -> Float[Tensor, "*models rows d"]:
        """The state after one phase of step ``time``."""
        if not self.decays:
            return self._move(phase.moving, time, state, gradient)
        moved = self._move(phase.moving, time, state[..., :-1, :], gradient)
        average = state[..., -1:, :]
        if phase.ends_step:
            keep = self._kept(time, average)
            average = keep * average + (1 - keep) * moved[..., :1, :]
        return torch.cat([moved, average], dim=-2)

    def _move(self, moving: frozenset[str], time: Tensor, state: Tensor, gradient: Tensor) -> Tensor:
        if self._shared and len(moving) == len(self._all):  # fewer operations for small games
            name = self.names[0]
            return self.optimizers[name].update(self._step_of(name, time), state, gradient)
        parts = []
        for name, part, slope in zip(
            self._all, state.split(self.sizes, dim=-1), gradient.split(self.sizes, dim=-1), strict=True
        ):
            if name in moving and name in self.optimizers:
                one = self.optimizers[name]
                used = 1 + one.buffers
                after = one.update(self._step_of(name, time), part[..., :used, :], slope)
                part = torch.cat([after, part[..., used:, :]], dim=-2)
            parts.append(part)
        return torch.cat(parts, dim=-1)

    def _step_of(self, name: str, time: Tensor) -> Tensor:
        """:meth:`moves` as a function of a tensor, at a step that moves the player."""
        before, length = self._before[name], len(self.cycle)
        if before[-1] == length:
            step = time
        elif before[-1] == 1:
            step = torch.div(time, length, rounding_mode="floor")
        else:
            entry = torch.remainder(time, length).long().reshape(1)  # an index of no dimension would be read in Python
            within = time.new_tensor(before[:-1]).index_select(0, entry).reshape(())
            step = torch.div(time, length, rounding_mode="floor") * before[-1] + within
        offset = self._offset(name)
        return step + offset if offset else step

    def _offset(self, name: str) -> int:
        """By how many updates an optimiser that goes on is ahead of those counted here."""
        return self._begun[name][1] if name in self._begun else 0

    def _kept(self, time: Tensor, average: Tensor) -> Tensor:
        if not any(map(callable, self.decays.values())):
            return self._keep
        parts = []
        for name, size, fixed in zip(self._all, self.sizes, self._keep.split(self.sizes), strict=True):
            decay = self.decays.get(name)
            parts.append(decay(time).to(average).expand(size) if callable(decay) else fixed)
        return torch.cat(parts)

    def held_at_start(self, held: Held) -> Held:
        """The buffers of the first state: the modules', and beside them the averages of an averaged player's."""
        if self.average_buffers != "average":
            return held
        averaged = [name for name in held if name.partition(".")[0] in self.decays]
        return {**held, **{_AVERAGE + name: held[name].clone() for name in averaged}}

    def held_after(self, phase: Phase, time: Float[Tensor, ""], held: Held) -> Held:
        """The buffers after a phase that has left them so, with their averages."""
        if self.average_buffers != "average" or not phase.ends_step:
            return held
        after = dict(held)
        for key, average in held.items():
            if key.startswith(_AVERAGE):
                name = key.removeprefix(_AVERAGE)
                decay = self.decays[name.partition(".")[0]]
                keep = decay(time).to(average) if callable(decay) else decay
                new = held[name]
                after[key] = keep * average + (1 - keep) * new if new.is_floating_point() else new.clone()
        return after

    def seen_held(self, held: Held) -> Held:
        """The buffers that a metric sees, before any :class:`Recompute`."""
        return {name: held.get(_AVERAGE + name, own) for name, own in held.items() if not name.startswith(_AVERAGE)}

    def pull_back(
        self,
        phase: Phase,
        time: Float[Tensor, ""],
        state: Float[Tensor, "rows d"],
        gradient: Float[Tensor, " d"],
        cotangent: Float[Tensor, "*stops rows d"],
    ) -> tuple[Float[Tensor, "*stops rows d"], Float[Tensor, "*stops d"]]:
        """The cotangents of the phase's input state and of its gradient, given the cotangent of its output state."""
        with torch.enable_grad():
            state = state.expand_as(cotangent).detach().requires_grad_()
            gradient = gradient.expand(*cotangent.shape[:-2], -1).detach().requires_grad_()
            after = self(phase, time, state, gradient)
        of_state, of_gradient = torch.autograd.grad(after, (state, gradient), cotangent, materialize_grads=True)
        return of_state, of_gradient

    def learning_rates(self, like: Float[Tensor, "*models d"], t: int) -> Float[Tensor, " d"]:
        """Each parameter's learning rate at step ``t``: of a player that does not move then, at its last update."""
        return self._of_players(like, self.rates(t))

    def rates(self, t: int) -> dict[str, Any]:
        """Each player's learning rate at step ``t``, a number, or one a parameter."""
        return {name: rates_of(one, self._last_update(name, t)) for name, one in self.optimizers.items()}

    def _last_update(self, name: str, t: int) -> Float[Tensor, ""]:
        return torch.tensor(max(self.moves(name, t + 1) - 1, 0) + self._offset(name), dtype=torch.float64)

    def weight_decays(self, like: Float[Tensor, "*models d"]) -> Float[Tensor, " d"]:
        """The rate at which each parameter shrinks: what an optimiser adds to the diagonal of J."""
        return self._of_players(
            like, {name: getattr(one, "weight_decay", 0.0) for name, one in self.optimizers.items()}
        )

    def _is_one_call(self) -> bool:
        """Is one elementwise optimiser that of all players, whenever they move at once?"""
        first, *others = self.optimizers.values()
        counts = set(map(tuple, self._before.values()))
        same = all(one is first for one in others) and len(counts) == 1
        return same and not self._begun and bool(getattr(first, "elementwise", False))

    def _buffers_of(self, start: Start, game: Game) -> dict[str, tuple[Tensor, int]]:
        """What each optimiser remembers of its earlier steps, and by how many they differ from the steps counted here.

        Raises:
            ValueError: a state does not fit, or a player that was moved has none.
        """
        given = _states(start.optimizer, self.names)
        found = {}
        for name, one in self.optimizers.items():
            moved, player = self.moves(name, start.step), game.players[name]
            if name not in given:
                if one.buffers and moved:
                    raise ValueError(
                        f"Start says that {start.step} steps were done, but has no optimizer state of the {name}, "
                        f"whose {type(one).__name__} remembers something: give its state_dict(), or step=0"
                    )
                continue
            buffers, step = from_torch(one, given[name], player.names, player.shapes, name)
            offset = 0 if step is None else step - moved
            if offset and callable(one.lr):
                raise ValueError(
                    f"the {name}'s optimizer state has done {step} updates, but Start(step={start.step}) and the order "
                    f"of moves make {moved}: its learning rate, a function of that number, would be another"
                )
            found[name] = buffers, offset
        return found

    def _of_players(self, like: Tensor, numbers: Mapping[str, Any]) -> Float[Tensor, " d"]:
        """Numbers of the players, or of their parameters, as one vector; 0 for a player without."""
        return torch.cat(
            [
                torch.as_tensor(numbers.get(name, 0.0), dtype=torch.float64).to(like).expand(size)
                for name, size in zip(self._all, self.sizes, strict=True)
            ]
        )


def _by_player(optimizer: Any, game: Game, names: list[str]) -> dict[str, Optimizer]:
    players, known = list(game.players), "SGD, RMSProp, Adam, AdamW; Clipped and Groups of them"
    given = dict.fromkeys(names, optimizer)
    if isinstance(optimizer, Mapping):
        given = dict(optimizer)
        unknown, missing = (
            [name for name in given if name not in players],
            [name for name in names if name not in given],
        )
        if unknown or missing:
            what = f"names {unknown[0]!r}" if unknown else f"has none for the {missing[0]}"
            raise ValueError(f"optimizer {what}, but the players are {', '.join(players)}")
    elif isinstance(optimizer, tuple | list):
        given = dict(zip(players, optimizer, strict=False)) if len(optimizer) == len(players) else {}
    if not given or not all(isinstance(given[name], Optimizer) for name in names):
        wanted = f"{{player: optimiser}} for {', '.join(players)}"
        if players == ["generator", "discriminator"]:
            wanted = "a pair (for_generator, for_discriminator)"
        raise TypeError(
            f"optimizer must be an optimiser such as SGD(lr=0.01), or {wanted}, got {optimizer!r}; known optimisers: "
            f"{known}"
        )
    return given


def _cycle(update: Any, game: Game, names: list[str]) -> tuple[tuple[Phase, ...], ...]:
    everyone = game.names
    if isinstance(update, str) or not isinstance(update, Sequence):
        if update not in ORDERS:
            raise ValueError(f"unknown update {update!r}; known: {', '.join(ORDERS)}, or a list of players' names")
        if update == "simultaneous":
            return ((Phase(everyone, True),),)
        if len(names) < 2:
            raise ValueError(f"update={update!r} needs two players, but this is a one-player game")
        order = [frozenset({name}) for name in game.order if name in names]
        if update == "turns":
            return tuple((Phase(moving, True),) for moving in order)
        return (tuple(Phase(moving, moving is order[-1]) for moving in order),)
    entries = [(entry,) if isinstance(entry, str) else tuple(entry) for entry in update]
    for k, entry in enumerate(entries):
        unknown = [name for name in entry if name not in everyone]
        if unknown or not entry:
            what = f"{unknown[0]!r}, which is none of the players {', '.join(everyone)}" if unknown else "nobody"
            raise ValueError(f"update[{k}] moves {what}")
    moved = {name for entry in entries for name in entry}
    still = [name for name in names if name not in moved]
    if still:
        raise ValueError(f"update never moves the {still[0]}: put it into the cycle, or freeze its parameters")
    return tuple((Phase(frozenset(entry), True),) for entry in entries)


def _moves_before(name: str, cycle: tuple[tuple[Phase, ...], ...]) -> list[int]:
    """How often a player has moved before each entry, and in all."""
    return list(accumulate((any(name in phase.moving for phase in phases) for phases in cycle), initial=0))


def _decays(decay: Any, game: Game) -> dict[str, Decay]:
    if decay is None:
        return {}
    if not isinstance(decay, Mapping):
        if "generator" not in game.players:
            what = "is a one-player game" if len(game.players) == 1 else "game has none"
            raise ValueError(
                f"ema_decay averages the generator, but this {what}: name the players to be averaged, "
                f"ema_decay={{{next(iter(game.players))!r}: {decay!r}}}"
            )
        decay = {"generator": decay}
    for name, one in decay.items():
        if name not in game.players:
            raise ValueError(f"ema_decay names {name!r}, but the players are {', '.join(game.players)}")
        if not callable(one) and not (is_real(one) and 0 <= one < 1):
            raise ValueError(f"ema_decay must be a number in [0, 1), or None, got {one!r}; or a function of t")
    return dict(decay)


def _recomputing(given: Any, decays: Mapping[str, Decay], game: Game) -> str | None:
    """The player whose running statistics are made anew for a metric: the averaged one, or the generator."""
    if given not in (None, "copy", "average") and not isinstance(given, Recompute):
        raise ValueError(f'average_buffers must be "copy", "average" or gi.Recompute(latents), got {given!r}')
    if not isinstance(given, Recompute):
        return None
    players = list(decays) or [name for name in game.players if name == "generator"]
    if len(players) != 1:
        whom = f"averages {', '.join(players)}" if players else "averages nobody, and there is no generator"
        raise ValueError(f"average_buffers=gi.Recompute(...) is for one player, but ema_decay {whom}")
    return players[0]


def _constant(decay: Decay) -> float:
    return 0.0 if callable(decay) else decay


def _states(given: Mapping[str, Any], names: list[str]) -> Mapping[str, Any]:
    """The optimisers' state dicts by player; of one player the dict may be given as it is."""
    if "param_groups" in given and len(names) == 1:
        return {names[0]: given}
    unknown = [name for name in given if name not in names]
    if unknown:
        raise ValueError(f"Start's optimizer names {unknown[0]!r}, but the players that move are {', '.join(names)}")
    return given


def _averages(start: Start, decays: Mapping[str, Decay]) -> Mapping[str, Any]:
    if start.average is None:
        if decays and start.step:
            raise ValueError(
                f"Start says that {start.step} steps were done, but has no average of the {next(iter(decays))}, which "
                "ema_decay averages: give its state_dict(), or step=0"
            )
        return {}
    if not decays:
        raise ValueError("Start has an average, but ema_decay averages nobody: give ema_decay, or leave it out")
    of_players = all(name in decays for name in start.average)
    average = start.average if of_players else dict.fromkeys(decays, start.average)
    if len(average) < len(decays) or (not of_players and len(decays) > 1):
        raise ValueError(f"Start must have an average of each of {', '.join(decays)}: {{player: state_dict}}")
    return average
