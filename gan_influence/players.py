"""A module as a function of its parameters; and the players of a game at one state, which costs and metrics call."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from gan_influence import trees
from gan_influence.devices import repeatable
from gan_influence.replacements import with_right_derivatives
from gan_influence.running_statistics import Recompute, differentiated, norms
from gan_influence.state import Held
from gan_influence.surroundings import warn

if TYPE_CHECKING:
    from gan_influence.game import Game

__all__ = ["Player", "Players", "common_dtype", "logits"]

_SWAPPING = threading.RLock()  # while a module is called its parameters are others, for all threads


class Player:
    """A module as a pure function of one flat vector of its trainable parameters.

    The parameters are those with ``requires_grad``, in the order of ``named_parameters()``, each flattened;
    frozen weights, and buffers that no call changes, are constants.

    Attributes:
        role: its name.
        held: names of the buffers that calls change, as running statistics are. Found out before training.
        writes_inputs: it works in place on what it is given, as ``nn.ReLU(inplace=True)`` in the first place does: then
            it is given copies. Found out before training.
        averaged: does training average it?
        statistics: what a metric sees of its running statistics, as ``average_buffers`` says; ``None``: nothing said.
    """

    def __init__(self, role: str, module: nn.Module):
        if not isinstance(module, nn.Module):
            raise TypeError(f"the {role} must be a torch.nn.Module, got {type(module).__name__}")
        if isinstance(module, torch.jit.ScriptModule | nn.DataParallel | nn.parallel.DistributedDataParallel):
            raise TypeError(
                f"the {role} is a {type(module).__name__}, which cannot be called with other parameters than its own: "
                "give the module that it was made of, .module of a parallel one"
            )
        _reject_dropout(role, module)
        self.role = role
        self.module = module
        self.held: tuple[str, ...] = ()
        self.writes_inputs = False
        self.averaged, self.statistics = False, cast(str | Recompute | None, "copy")
        trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        first_name = {id(p): name for name, p in trainable}
        self._places = {  # where each stands: one parameter may be that of several modules
            f"{path}.{name}".removeprefix("."): first_name[id(p)]
            for path, part in module.named_modules()
            for name, p in part.named_parameters(recurse=False, remove_duplicate=False)
            if p.requires_grad
        }
        self.names = [name for name, _ in trainable]
        self.shapes = [p.shape for _, p in trainable]
        self.sizes = [p.numel() for _, p in trainable]
        self.size = sum(self.sizes)
        dtypes = {p.dtype for _, p in trainable}
        if len(dtypes) > 1:
            raise TypeError(f"the {role}'s parameters mix {_names(dtypes)}: convert it with .double() or .float()")

    def copied(self, device: torch.device) -> Player:
        """The same with a copy of the module, out of reach of later changes to it.

        Raises:
            TypeError: the module cannot be copied.
        """
        try:
            module = copy.deepcopy(self.module)
        except (RuntimeError, TypeError) as error:
            raise TypeError(
                f"the {self.role} cannot be copied ({error}): it holds a tensor that was computed, as the old "
                "torch.nn.utils.weight_norm does (take torch.nn.utils.parametrizations.weight_norm), or something that "
                "is none of a module's, such as a lock or an open file"
            ) from error
        player = Player(self.role, with_right_derivatives(module).to(device))
        player.held, player.writes_inputs = self.held, self.writes_inputs
        return player

    def vector(self) -> Float[Tensor, " d"]:
        """The module's current parameters, flattened and copied."""
        named = dict(self.module.named_parameters())
        values = [named[name].detach().reshape(-1) for name in self.names]
        return torch.cat(values) if values else torch.empty(0)

    def buffers(self, names: Sequence[str] | None = None) -> Held:
        """Copies of the module's buffers of these names, by default those that calls change, by ``"role.name"``."""
        named = dict(self.module.named_buffers())
        return {f"{self.role}.{name}": named[name].clone() for name in (self.held if names is None else names)}

    def unflatten(self, parameters: Float[Tensor, " d"]) -> dict[str, Tensor]:
        """The vector's parts under the module's own parameter names, as views."""
        parts = parameters.split(self.sizes, dim=-1)
        return {name: part.view(shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}

    def flattened(self, named: dict[str, Tensor], what: str) -> Float[Tensor, " d"]:
        """A state dict's values for the trainable parameters, as one vector.

        Raises:
            ValueError: it lacks one, or holds one of another shape; ``what`` it is begins the message.
        """
        for name, shape in zip(self.names, self.shapes, strict=True):
            if name not in named:
                raise ValueError(f"{what} has no {name!r}, which is a parameter of the {self.role}")
            if named[name].shape != shape:
                raise ValueError(
                    f"{what} holds {name!r} of shape {tuple(named[name].shape)}, but the {self.role}'s has shape "
                    f"{tuple(shape)}: it is that of another architecture"
                )
        return torch.cat([named[name].detach().reshape(-1) for name in self.names])

    def kernels(self, parameters: Float[Tensor, " d"]) -> Float[Tensor, " d2"]:
        """The vector's parts of two dimensions or more, without biases and gains."""
        parts = zip(parameters.split(self.sizes, dim=-1), self.shapes, strict=True)
        kernels = [part for part, shape in parts if len(shape) > 1]
        return torch.cat(kernels, dim=-1) if kernels else parameters[..., :0]

    def at(self, parameters: Float[Tensor, " d"], held: Held | None = None, mode: str = "train") -> Callable[..., Any]:
        """The module as a function of its inputs alone, at these parameters; the module itself is left untouched.

        Args:
            parameters: its own.
            held: the values of the buffers that calls change: the calls write there.
            mode: ``"train"``: as the module is; ``"eval"``: as after ``.eval()``.
        """
        named = self.unflatten(parameters)
        placed = {place: named[name] for place, name in self._places.items()}
        held = held if self.held else None
        if mode == "eval" and held is not None:
            self._look(held, partial(self._called, placed, held, "train"), parameters.requires_grad)
        return partial(self._called, placed, held, mode)

    def _look(self, held: Held, call: Callable[..., Any], differentiated: bool) -> None:
        """Put into ``held`` the running statistics that a metric sees; ``call`` is the player in training mode."""
        if isinstance(self.statistics, Recompute):
            with _SWAPPING:
                held.update(self.statistics.of(self.module, call, self.role))
        elif self.statistics is None and (self.averaged or differentiated) and norms(self.module):
            self._say_what_is_seen()

    def _say_what_is_seen(self) -> None:
        """Once, and not where the caller has chosen: a metric that looks in eval mode sees running statistics."""
        self.statistics = "copy"
        what = f"the averaged {self.role} is looked at with the running statistics of the one that was trained"
        if not self.averaged:
            what = f"the {self.role} is looked at in eval mode: scores leave out what rows do to its running statistics"
        warn(
            f"{what}, in {type(next(iter(norms(self.module).values()))).__name__}: give train average_buffers="
            'gi.Recompute(latents), or the metric mode = "train", which leave nothing out; or average_buffers="copy", '
            "if it is meant so, and see gi.validate"
        )

    def _called(self, placed: dict[str, Tensor], held: Held | None, mode: str, *inputs: Any) -> Any:
        if self.writes_inputs:
            inputs = trees.mapped(torch.clone, inputs)
        if held is not None:
            placed = {**placed, **{name: held[f"{self.role}.{name}"] for name in self.held}}
        with _SWAPPING, self._in_mode(mode):
            # Of a module that stands in two places, torch's own tying would not put the parameters back.
            outputs = functional_call(self.module, placed, inputs, tie_weights=False)
        if held is not None:  # functional_call leaves there what the module has put in a buffer's place
            held.update({f"{self.role}.{name}": placed[name] for name in self.held})
        return outputs

    @contextmanager
    def _in_mode(self, mode: str) -> Iterator[None]:
        if mode == "train":
            yield
            return
        recomputed = isinstance(self.statistics, Recompute)
        with _evaluating(self.module), differentiated(self.module) if recomputed else nullcontext():
            yield


class Players:
    """The players of a game at one state: ``players.NAME(*inputs)`` calls one at its parameters.

    Attributes:
        game: whose players.
        parameters: each player's, as one vector, by name.
        held: the buffers that calls change, as the calls so far have left them.
        moving: the names of the players that move in this part of a step; what only the others pay need not be
            computed. All, for a metric.
        mode: ``"train"``, as the modules are; or ``"eval"``.

    Args:
        game: whose players.
        theta: all players' parameters, or one vector a player.
        held: the values of the buffers that calls change; by default those of the modules.
        moving: see above.
        mode: see above.
    """

    def __init__(
        self,
        game: Game,
        theta: Float[Tensor, " d"] | Sequence[Float[Tensor, " d_player"]],
        held: Held | None = None,
        moving: frozenset[str] | None = None,
        mode: str = "train",
    ):
        parts = game.split(theta) if isinstance(theta, Tensor) else theta
        self.game, self.mode = game, mode
        self.parameters = dict(zip(game.players, parts, strict=True))
        # Copies: modules write into their buffers, and a step reads its own.
        self.held = {name: value.clone() for name, value in (game.held() if held is None else held).items()}
        self.moving = game.names if moving is None else moving

    def __getattr__(self, name: str) -> Callable[..., Any]:
        players = self.__dict__["game"].players if "game" in self.__dict__ else {}
        if name not in players:
            raise AttributeError(f"there is no player {name!r}; the players are {', '.join(players)}")
        call = players[name].at(self.parameters[name], self.held, self.mode)
        self.__dict__[name] = call
        return call

    def looked_at(self) -> Held:
        """:attr:`held` with the running statistics that are made anew for a look in eval mode."""
        for name, player in self.game.players.items():
            if isinstance(player.statistics, Recompute):
                getattr(self, name)
        return self.held

    @property
    def device(self) -> torch.device:
        return next(iter(self.parameters.values())).device

    def generate(self, latents: Any) -> Any:
        """The generator's rows for these latents, wherever they are."""
        return self._on_device("generator", latents)

    def discriminate(self, rows: Any) -> Float[Tensor, " n"]:
        """The discriminator's logits for these rows, wherever they are."""
        return logits(self._on_device("discriminator", rows), trees.length(rows))

    def outputs(self, inputs: Any) -> Any:
        """The outputs of a one-player game's model for these inputs, wherever they are."""
        return self._on_device("model", inputs)

    def _on_device(self, name: str, inputs: Any) -> Any:
        given = inputs if type(inputs) is tuple else (inputs,)
        with repeatable(self.device):
            return getattr(self, name)(*trees.mapped(lambda leaf: leaf.to(self.device), given))


def logits(outputs: Tensor, n: int) -> Float[Tensor, " n"]:
    """A discriminator's outputs for n rows as one number a row.

    Raises:
        ValueError: they are of another shape than ``(n,)`` and ``(n, 1)``.
    """
    if outputs.shape not in ((n,), (n, 1)):
        raise ValueError(
            f"the discriminator returned shape {tuple(outputs.shape)} for {n} rows: "
            f"it must return one logit a row, ({n},) or ({n}, 1)"
        )
    return outputs.view(n) if outputs.ndim > 1 else outputs


def common_dtype(players: Sequence[Player]) -> torch.dtype:
    """The data type of all players' parameters.

    Raises:
        ValueError: there is no parameter.
        TypeError: players differ.
    """
    dtypes = {player.role: player.vector().dtype for player in players if player.size}
    if not dtypes:
        raise ValueError("no player has a parameter with requires_grad: there is nothing to train")
    if len(set(dtypes.values())) > 1:
        described = " and ".join(f"the {role} {_names({dtype})}" for role, dtype in dtypes.items())
        raise TypeError(f"the players differ in data type, {described}: convert one with .double() or .float()")
    return next(iter(dtypes.values()))


def _reject_dropout(role: str, module: nn.Module) -> None:
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.training and part.p > 0:
            where = f"the {role}'s {type(part).__name__} {name!r}" if name else f"the {role}"
            raise ValueError(
                f"{where} draws fresh randomness at every call, so no step can be replayed: call .eval(), or take "
                "gi.nn.Dropout, whose noise the batch brings along"
            )


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _names(dtypes: set[torch.dtype]) -> str:
    return " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
