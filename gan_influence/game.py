"""A game: its players, what each of them minimises, and the gradient field that training follows."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import vmap

from gan_influence import losses, trees
from gan_influence.batch import Inputs
from gan_influence.checks import check, is_real
from gan_influence.costs import Cost, Costs, weighted
from gan_influence.gans import short_form
from gan_influence.players import Player, Players, common_dtype
from gan_influence.state import Held

__all__ = ["Game"]

_REGULARISED = ("all", "kernels")
_RESERVED = frozenset(name for name in dir(Players) if not name.startswith("__")) | {
    *("game", "parameters", "held", "moving", "mode", "rows")
}


class Game:
    r"""Players, and what each of them pays: the whole that is differentiated, retrained and scored.

    With weights ``w`` on the rows of a batch ``B`` (``w_j = 0`` removes row j, the denominator stays), each player p
    minimises its own cost, over its own parameters ``theta_p``::

        L_p(theta; w) = (1/|B|) sum_i w_i rows_p,i(theta) + rest_p(theta) + lambda_p |theta_p|^2 / 2

    or, with ``l2_by_row``, of a player that has rows::

        L_p(theta; w) = (1/|B|) sum_i w_i (rows_p,i(theta) + lambda_p |theta_p|^2 / 2) + rest_p(theta)

    which is the same where all weights are 1. ``cost(players, batch)`` gives ``gi.Costs(rows={p: (B,)}, rest={p:
    scalar})``, as a function of all players::

        def cost(players, batch):
            real, fake = players.discriminator(batch.rows), players.discriminator(players.generator(batch.latents))
            return gi.Costs(rows={"discriminator": softplus(-real)},
                            rest={"discriminator": softplus(fake).mean(), "generator": softplus(-fake).mean()})

        gi.Game(players={"generator": G, "discriminator": D}, cost=cost, l2={"generator": 1e-3})

    Two short forms write that cost. ``Game(G, D, loss="hinge")`` is a GAN (TNNLS eq. 1-2, ICLR eq. 1-2)::

        L_D = (1/|B|) sum_i w_i real(D(x_i)) + mean_z fake(D(G(z))) + lambda_2 |psi|^2 / 2
        L_G = mean_z generator(D(G(z))) + lambda_1 |phi|^2 / 2

    For the zero-sum losses it is TNNLS eq. 2 with ``R = (lambda_1 |phi|^2 - lambda_2 |psi|^2) / 2``. ``Game(None,
    model, loss="cross_entropy")`` is supervised training of one player, ``"model"``, on rows ``(x_i, y_i)``, so that
    ITD is SGD-influence (Hara et al. 2019) and AID the influence function (Koh and Liang 2017).

    Args:
        generator: module taking latents ``(n, *latent_shape)`` to rows ``(n, *instance_shape)``; ``None`` for a
            one-player game.
        discriminator: module taking rows to one logit each, ``(n,)`` or ``(n, 1)``; in a one-player game the model.
        loss: one of ``minimax``, ``non_saturating``, ``wasserstein``, ``least_squares``, ``hinge``, ``softplus``,
            or an object with ``real``, ``fake`` and ``generator`` (see :class:`gan_influence.losses.Loss`). In a
            one-player game ``squared_error``, ``cross_entropy``, ``binary_cross_entropy`` or a function
            ``(outputs, targets) -> (n,)``.
        l2: ``(lambda_1, lambda_2)``, all at least 0; in a one-player game one rate; or ``{player: rate}``.
        l2_of: the parameters that l2 regularises: ``"all"`` of them, or ``"kernels"``, those of two dimensions or
            more, which leaves out biases and gains (as the ICLR authors' code does).
        l2_by_row: does each row of a batch bear its share of its player's L2, ``1 / |B|`` of it, which leaves with the
            row? So it is in the code of SGD-influence. By default L2 stays whole, as that of a player without rows
            always does.
        penalties: of a GAN: ``[gi.penalties.R1(10.0)]``, see :mod:`gan_influence.penalties`.
        players: instead of the two modules: all players' by name, one or more. One without parameters pays nothing, and
            holds what a cost remembers in its buffers.
        cost: of ``players``: a function of :class:`Players` and a batch, with ``rows``, ``latents`` and ``noise``.
        period: of ``cost``: after how many steps it does the same again; it sees ``batch.turn``, t modulo that.
        rows_interact: allow that a row's cost depends on the others of its batch, as BatchNorm in a discriminator makes
            it. A removal then takes out the row's own cost; in the others' costs it stays, in retraining as in scores.

    Attributes:
        players: by name, in the order of their parts of ``theta``; ``game.NAME`` is one.
        order: in which they move where they move one after another: that of ``players``; of a GAN, D first.
        loss: of the two short forms.
        seeing: the players whose cost has an entry a row. Found out before training.
        stacks: can torch batch several models of it? ``None`` until :func:`gan_influence.stacking.stacks` finds out.
        measured_apart: metrics of which torch cannot batch several models.

    Raises:
        TypeError: a player is no module, or players differ in data type; the loss lacks a cost; no cost for players.
        ValueError: unknown loss or player; negative ``l2``; batch statistics or dropout; a parameter of two players.
    """

    def __init__(
        self,
        generator: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        loss: str | losses.Loss | losses.PairCost = "minimax",
        l2: Mapping[str, float] | tuple[float, ...] | float | None = None,
        l2_of: str = "all",
        *,
        l2_by_row: bool = False,
        penalties: Sequence[Any] = (),
        players: Mapping[str, nn.Module] | None = None,
        cost: Cost | None = None,
        period: int | None = None,
        rows_interact: bool = False,
    ):
        if players is None:
            if discriminator is None or cost is not None:
                raise TypeError(
                    "give a game its modules, Game(generator, discriminator, loss=...), or Game(None, model, "
                    "loss=...), or both players= and cost="
                )
            players, cost = short_form(generator, discriminator, loss, penalties)
        else:
            _check_general(players, cost, generator, discriminator, penalties)
        assert cost is not None
        self.cost: Cost = cost
        self.loss: Any = getattr(cost, "loss", None)
        self.players = {name: Player(name, module) for name, module in players.items()}
        self.names = frozenset(self.players)
        self.seeing = self.names
        self.order = tuple(self.players) if self.loss is None else tuple(reversed(self.players))
        turns = [penalty.every for penalty in penalties]
        self.period = period if period is not None else math.lcm(*turns)
        self.rows_interact = rows_interact
        self.l2 = _check_l2(l2, tuple(self.players))
        if l2_of not in _REGULARISED:
            raise ValueError(f"l2_of must be one of {', '.join(_REGULARISED)}, got {l2_of!r}")
        check(isinstance(l2_by_row, bool), "l2_by_row", "True or False", l2_by_row)
        self.l2_of, self.l2_by_row = l2_of, l2_by_row
        self.stacks: bool | None = None
        self.measured_apart: list[Any] = []
        if not rows_interact and hasattr(cost, "sees_rows"):
            _reject_batch_statistics(self.players[cost.sees_rows])
        _reject_shared_parameters(self.players)
        common_dtype(list(self.players.values()))

    def __getattr__(self, name: str) -> Player:
        players = self.__dict__.get("players", {})
        if name not in players:
            raise AttributeError(f"a Game has no attribute and no player {name!r}")
        return players[name]

    @property
    def dtype(self) -> torch.dtype:
        """The data type of all players' parameters."""
        return common_dtype(list(self.players.values()))

    @property
    def size(self) -> int:
        """``d``, the number of parameters of all players."""
        return sum(self.sizes)

    @property
    def sizes(self) -> list[int]:
        """The number of parameters of each player."""
        return [player.size for player in self.players.values()]

    def theta(self) -> Float[Tensor, " d"]:
        """The modules' current parameters, player after player, copied; of a GAN ``(phi, psi)`` (TNNLS II-C)."""
        return torch.cat([player.vector() for player in self.players.values() if player.size])

    def held(self) -> Held:
        """The modules' current buffers that calls change, copied."""
        return {name: value for player in self.players.values() for name, value in player.buffers().items()}

    def split(self, theta: Float[Tensor, "*models d"]) -> tuple[Tensor, ...]:
        """Each player's part of ``theta``, as views; of a GAN ``(phi, psi)``."""
        return theta.split(self.sizes, dim=-1)

    def leaves(self, theta: Float[Tensor, "*models d"]) -> tuple[Tensor, ...]:
        """The parts as the inputs of a fresh graph."""
        return tuple(part.detach().requires_grad_() for part in self.split(theta))

    def parameters(self, theta: Float[Tensor, " d"]) -> dict[str, dict[str, Tensor]]:
        """``theta`` by name, ``{"generator": {name: tensor}, "discriminator": {...}}``, or ``{"model": {...}}``."""
        return {
            name: player.unflatten(part)
            for (name, player), part in zip(self.players.items(), self.split(theta), strict=True)
        }

    def constants(self) -> list[Tensor]:
        """What the modules hold and no step changes: frozen weights and buffers."""
        constant = []
        for player in self.players.values():
            changing = {*player.names, *player.held}
            named = (*player.module.named_parameters(), *player.module.named_buffers())  # a state_dict lacks some
            constant += [value for name, value in named if name not in changing]
        return constant

    def snapshot(self, device: torch.device) -> Game:
        """A copy whose modules, constants included, later changes to the caller's modules cannot reach."""
        snapshot = copy.copy(self)
        snapshot.measured_apart = []
        snapshot.players = {name: player.copied(device) for name, player in self.players.items()}
        return snapshot

    def costs(self, players: Players, batch: Inputs) -> Costs:
        """What the game's cost function says."""
        return self.cost(players, batch.in_step)

    def trained(self, players: Players, batch: Inputs) -> Costs:
        """The costs that rows' weights multiply in training: :meth:`costs`, and each row's L2 where rows bear it."""
        costs = self.costs(players, batch)
        if not self.l2_by_row:
            return costs
        rows = {name: self._regularised(name, of_rows, players) for name, of_rows in costs.rows.items()}
        return costs._replace(rows=rows)

    def losses(
        self,
        parts: Float[Tensor, " d"] | Sequence[Float[Tensor, " d_player"]],
        batch: Inputs,
        held: Held | None = None,
        moving: frozenset[str] | None = None,
    ) -> tuple[dict[str, Float[Tensor, ""]], Held]:
        """``L_p`` of each player that moves and pays, and the buffers that the calls have changed."""
        players = Players(self, parts, held, moving)
        costs = self.trained(players, batch)
        paid, borne = weighted(costs, batch.weights), costs.rows if self.l2_by_row else ()
        pays = [name for name in self.players if name in players.moving and name in paid]
        own = {name: paid[name] if name in borne else self._regularised(name, paid[name], players) for name in pays}
        return own, players.held

    def field(
        self,
        parts: Sequence[Float[Tensor, "*runs_and_models d_player"]],
        batch: Inputs,
        held: Held | None = None,
        moving: frozenset[str] | None = None,
        create_graph: bool = False,
    ) -> tuple[tuple[Tensor, ...], Held]:
        """``v_w(theta)``, each player's gradient of its own cost (TNNLS eq. 4, ICLR eq. 3), 0 for one not moving.

        ``parts`` come from :meth:`leaves`. With a leading dimension they are as many models of one run, each with its
        own weights and buffers: their costs are summed, so that one backward pass serves all. With two they are the
        models of several runs, and the batch's rows, latents and noise have a leading dimension too. Returns the parts,
        in their shapes, and the buffers that the calls have changed; with ``create_graph`` the parts can be
        differentiated once more.
        """
        held = self.held() if held is None else held
        moving = self.names if moving is None else moving
        drawn = batch.rows, batch.latents, batch.noise

        def costs(parts: tuple[Tensor, ...], weights: Tensor, held: Held, drawn: tuple) -> tuple[dict, Held]:
            rows, latents, noise = drawn
            seen = Inputs(rows, latents, noise, weights, batch.time, batch.turn)
            found, after = self.losses(parts, seen, held, moving)
            return found, {name: value.detach() for name, value in after.items()}

        with torch.enable_grad():
            called: Callable[..., tuple[dict[str, Tensor], Held]] = costs
            for shared in (None, 0)[: parts[0].ndim - 1]:  # the models of a run share its batch; runs do not
                called = self.stacked(called, (0, 0, 0, shared))
            found, after = called(tuple(parts), batch.weights, held, drawn)
            last = [name for name in self.players if name in found][-1:]
            field = tuple(
                _gradient(found.get(name), part, create_graph, create_graph or [name] != last)
                for name, part in zip(self.players, parts, strict=True)
            )
        return field, after

    def stacked(self, function: Callable[..., Any], axes: tuple[int | None, ...] = (0,)) -> Callable[..., Any]:
        """``vmap(function)`` over trees, or the same by a loop where :mod:`gan_influence.stacking` found torch cannot.

        Args:
            function: of trees of tensors, to a tree of them.
            axes: of each argument: 0, or ``None`` where all models share it.
        """
        return partial(_of_models, function, axes, self.stacks is not False)

    def _regularised(self, name: str, cost: Float[Tensor, "*rows"], players: Players) -> Float[Tensor, "*rows"]:
        rate = self.l2[name]
        if not rate:
            return cost
        own = players.parameters[name]
        if self.l2_of == "kernels":
            own = self.players[name].kernels(own)
        return cost + 0.5 * rate * own.square().sum()


def _of_models(function: Callable[..., Any], axes: tuple[int | None, ...], batched: bool, *arguments: Any) -> Any:
    leaves: list[Tensor] = []
    dims: list[int | None] = []
    forms = []
    for argument, axis in zip(arguments, axes, strict=True):
        forms.append(trees.form(argument, leaves))
        dims += [axis] * (len(leaves) - len(dims))

    def of_one(*leaves: Tensor) -> Any:
        waiting = iter(leaves)
        return function(*[trees.build(form, waiting) for form in forms])

    if batched:
        return vmap(of_one, in_dims=tuple(dims))(*leaves)
    models = next(len(leaf) for leaf, dim in zip(leaves, dims, strict=True) if dim is not None)
    of_each = [
        of_one(*[leaf if dim is None else leaf[k] for leaf, dim in zip(leaves, dims, strict=True)])
        for k in range(models)
    ]
    return trees.stack(of_each)


def _gradient(costs: Tensor | None, leaf: Tensor, create_graph: bool, retain_graph: bool) -> Tensor:
    """Each model's gradient of its own cost, as the gradient of the sum of all."""
    if costs is None or not costs.requires_grad or not leaf.numel():  # it does not move, or its cost is constant
        return torch.zeros_like(leaf)
    ones = torch.ones(costs.shape, dtype=costs.dtype, device=costs.device)
    (gradient,) = torch.autograd.grad(
        costs, leaf, ones, create_graph=create_graph, retain_graph=retain_graph, materialize_grads=True
    )
    return gradient


def _check_general(players: Any, cost: Any, generator: Any, discriminator: Any, penalties: Any) -> None:
    if generator is not None or discriminator is not None or penalties:
        raise TypeError(
            "with players= and cost= there is no other generator, discriminator or penalty: name all players in "
            "players=, and add penalties in the cost"
        )
    if not isinstance(players, Mapping) or not players:
        raise TypeError(f'players must be named modules, {{"generator": G, ...}}, got {type(players).__name__}')
    if not callable(cost):
        raise TypeError(f"players= need cost=, a function (players, batch) -> gi.Costs, got {type(cost).__name__}")
    for name in players:
        if not isinstance(name, str) or not name.isidentifier() or name in _RESERVED:
            raise ValueError(f"a player's name must be one that players.NAME can call, and not taken, got {name!r}")


def _reject_batch_statistics(player: Player) -> None:
    for name, part in player.module.named_modules():
        mixes = isinstance(part, nn.modules.batchnorm._BatchNorm)
        if mixes and (part.training or not part.track_running_stats):
            where = f"the {player.role}'s {type(part).__name__} {name!r}" if name else f"the {player.role}"
            raise ValueError(
                f"{where} uses batch statistics, and removing one row would change all others' terms: use GroupNorm or "
                "LayerNorm, or put it in eval() mode with running statistics; or give rows_interact=True, if a removal "
                "is to leave the row in them"
            )


def _reject_shared_parameters(players: Mapping[str, Player]) -> None:
    owner: dict[int, tuple[str, str]] = {}
    for role, player in players.items():
        for name, p in player.module.named_parameters():
            if not p.requires_grad:
                continue
            other, own = owner.setdefault(id(p), (role, name))
            if other != role:
                raise ValueError(
                    f"{other} parameter {own!r} and {role} parameter {name!r} are the same tensor: "
                    "each player needs its own; copy one of the modules or freeze the shared parameter"
                )


def _check_l2(l2: Any, names: tuple[str, ...]) -> dict[str, float]:
    if l2 is None:
        l2 = {}
    if is_real(l2) and len(names) == 1:
        l2 = (l2,)
    if isinstance(l2, Mapping):
        unknown = [name for name in l2 if name not in names]
        if unknown:
            raise ValueError(f"l2 names {unknown[0]!r}, but the players are {', '.join(names)}")
        l2 = [l2.get(name, 0.0) for name in names]
    if not isinstance(l2, tuple | list) or len(l2) != len(names) or not all(is_real(rate) and rate >= 0 for rate in l2):
        wanted = "(lambda_1, lambda_2)" if len(names) == 2 else f"one of each of {', '.join(names)}"
        count = {1: "one finite rate", 2: "two finite rates"}.get(len(names), f"{len(names)} finite rates")
        raise ValueError(f"l2 must be {count} >= 0, {wanted}, got {l2!r}")
    return dict(zip(names, map(float, l2), strict=True))
