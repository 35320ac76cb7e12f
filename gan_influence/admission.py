"""May this run be scored? Asked once before training, and once at its end.

What the scores rest on is true of most games and cannot be seen in their results where it is not: every call of a
module, a cost or the schedule gives the same; a row's cost is its own; the parameters that a cost reaches are the
players'; torch's second derivative of a step is the derivative of its first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from gan_influence import trees
from gan_influence.adjoint import FieldGraph
from gan_influence.batch import Inputs
from gan_influence.costs import Costs
from gan_influence.devices import is_out_of_memory, repeatable
from gan_influence.game import Game
from gan_influence.gans import GAN, Supervised
from gan_influence.graphs import is_transformed, nodes
from gan_influence.identity import globals_of
from gan_influence.losses import LOSSES, check_classes, check_targets
from gan_influence.players import Player, Players
from gan_influence.randomness import draws
from gan_influence.state import Held, State
from gan_influence.step import step
from gan_influence.surroundings import warn
from gan_influence.trace import Trace
from gan_influence.trees import Tree

__all__ = ["check_data", "check_end", "check_start", "constant_buffers"]

_ROWS_ALONE = 4  # of a batch; each is a call
_PROBED = 16  # rows, and as many latents, to differentiate a step twice
_NEAR = 1e-7  # of the parameters: so near that hardly a kink lies between, and 1e-8 of a slope is rounding
_TELLING, _OFF = 1e-3, 1e-5  # relative: of differences from each other, and of the derivative from them


def check_data(game: Game, data: Tree) -> None:
    """Tensors of as many rows each, finite, and those of numbers of the players' type; with a target each for a model.

    Raises:
        TypeError, ValueError: they are not; the message names the first bad row.
    """
    supervised = isinstance(game.cost, Supervised)
    if supervised:
        _check_pairs(game, data)
    parts, is_pair = trees.leaves(data), isinstance(game.cost, GAN) and isinstance(data, tuple)
    if is_pair or not parts or len(parts) < len(tree_leaves(data)):  # of which some are no tensors
        wanted = "a torch tensor (N, *instance_shape)" + ("" if is_pair else ", or a tree of them")
        raise TypeError(f"data must be {wanted}, got {type(data).__name__}")
    if any(part.ndim == 0 for part in parts) or len(parts[0]) == 0:
        raise ValueError(f"data must hold at least one row, got shape {tuple(parts[0].shape)}")
    lengths = [len(part) for part in parts]
    if len(set(lengths)) > 1:
        raise ValueError(f"the parts of data have {', '.join(map(str, lengths))} rows: they must have as many each")
    for part in trees.leaves(data[0]) if supervised else parts:
        if part.is_floating_point() and part.dtype != game.dtype:
            raise TypeError(
                f"the data is {str(part.dtype).removeprefix('torch.')}, but the players' parameters are "
                f"{str(game.dtype).removeprefix('torch.')}: convert one of them"
            )
        if not part.isfinite().all():
            row = int((~part.isfinite()).reshape(len(part), -1).any(-1).nonzero()[0])
            raise ValueError(f"data contains NaN or infinity, first in row {row}: remove or repair such rows")


def _check_pairs(game: Game, data: Tree) -> None:
    if not (isinstance(data, tuple) and len(data) == 2 and isinstance(data[1], Tensor) and trees.leaves(data[0])):
        raise TypeError(
            f"the data of a one-player game is a pair of tensors (inputs, targets), got {type(data).__name__}"
        )
    inputs, targets = trees.leaves(data[0])[0], data[1]
    if targets.ndim == 0 or inputs.ndim == 0 or len(inputs) != len(targets):
        raise ValueError(f"there are {len(inputs)} inputs, but targets of shape {tuple(targets.shape)}: one a row")
    if targets.is_floating_point() and not targets.isfinite().all():
        raise ValueError("targets contain NaN or infinity: remove or repair such rows")
    check_targets(game.loss, targets)


def check_start(trace: Trace, given: Game) -> None:
    """Can a run that begins like this be replayed, and its steps be differentiated?

    Args:
        trace: at its start. Players that work in place on what they are given are marked here, to be given copies; and
            those whose calls change buffers, to have them kept.
        given: the game whose copy it plays.

    Raises:
        TypeError, ValueError: it cannot; the message names the culprit and what to do.

    Warns:
        RuntimeWarning: torch's second derivative of a step is not the derivative of its first; values in ranges that
            do not belong together.
    """
    _check_schedule(trace, trace.first)
    other = trace.game.snapshot(trace.weights.device)  # now: a module may keep something of a call, and then not copy
    inputs = trace.inputs(trace.first)
    with repeatable(trace.weights.device):
        with torch.no_grad():
            if isinstance(trace.game.cost, GAN):
                _check_generator(trace, inputs.latents)
            elif isinstance(trace.game.cost, Supervised) and inputs.latents is not None:
                raise ValueError(
                    "the schedule gives latents, but a one-player game has no generator to take them: give none"
                )
            _check_calls(trace, inputs)
            _check_rows(trace, trace.theta(), inputs)
            _check_rows(trace, _moved(trace.theta(), 0.01), inputs, elsewhere=True)
            _check_finite(trace, inputs)
            _, few = _of_part(inputs, slice(_PROBED), partial(trace.game.losses, trace.theta()))
        _check_parameters(trace, few, given)
        _check_derivatives(trace, few)
        _check_own_parameters(trace, few, other)
        _warn_of_derivatives(trace, few, other)
        _warn_of_ranges(trace, inputs)


def check_end(trace: Trace, before: State, constants: Held) -> None:
    """Was the run what its steps say? Its last step is taken once more, and its rows looked at as at the start.

    Args:
        trace: a run of a step or more.
        before: the state before its last step.
        constants: the modules' buffers that no call should change, as they were before training.

    Raises:
        RuntimeError: the last step leads elsewhere, or a call has changed another buffer than those that are kept.
        ValueError: a row's cost is not its own any more.
    """
    for name, value in constant_buffers(trace.game).items():
        if not trees.equal(value, constants[name]):
            raise RuntimeError(
                f"a call has changed the buffer {name!r}, but not the calls before training: what some steps write is "
                "not replayed. Let every call write it"
            )
    last, kept = trace.steps - 1, trace.state().moving
    inputs = trace.inputs(last)
    with repeatable(trace.weights.device):
        with torch.no_grad():
            _check_rows(trace, kept[0], inputs)
        again = step(trace.game, trace.updates, trace.updates.phases(last), before, inputs).moving
    if not torch.allclose(again, kept, rtol=_rounding(kept), atol=_rounding(kept) * float(kept.abs().max())):
        raise RuntimeError(
            f"step {last} of this run, taken once more, does not lead to the state that training reached: the modules, "
            "the loss, the optimiser or the schedule are not the same at every call. A counter, noise or a cache of "
            "their own is the usual reason"
        )


def constant_buffers(game: Game) -> Held:
    """Copies of the buffers that no call changes."""
    held = game.held()
    of_players = (player.buffers(list(dict(player.module.named_buffers()))) for player in game.players.values())
    return {name: value for own in of_players for name, value in own.items() if name not in held}


def _check_schedule(trace: Trace, t: int) -> None:
    one, other = trace.batch(t), trace.batch(t)
    for name, a, b in zip(one._fields, one, other, strict=True):
        if not trees.equal(a, b):
            raise ValueError(
                f"the schedule gives another batch of step {t} at each call, in its {name}: it must be a pure function "
                "of t, since retraining and the reverse sweep ask again. Derive what is random from a seed and t, as "
                "Minibatches does, or draw all batches beforehand"
            )


def _check_generator(trace: Trace, latents: Tree) -> None:
    if latents is None:
        raise ValueError(
            "the schedule gives no latents for the generator: FullBatch(latents), Minibatches(..., latent_shape=...)"
        )
    if isinstance(latents, Tensor) and latents.dtype != trace.game.dtype:
        raise TypeError(f"the latents are {latents.dtype}, but the data is {trace.game.dtype}: convert one")
    generated = _Watched(trace).generator(latents)
    data, n = trace.data, trees.length(latents)
    shape = tuple(generated.shape) if isinstance(generated, Tensor) else (type(generated).__name__,)
    if isinstance(data, Tensor) and shape != (n, *data.shape[1:]):
        raise ValueError(
            f"the generator makes rows of shape {shape[1:]} "
            f"(output {shape} for {n} latents), but the data's rows have shape {tuple(data.shape[1:])}"
        )


class _Watched(Players):
    """Players that are looked at while a cost calls them: is each call a function of its inputs and parameters?"""

    def __init__(self, trace: Trace):
        super().__init__(trace.game, trace.theta())
        self._trace = trace

    def __getattr__(self, name: str) -> Callable[..., Any]:
        super().__getattr__(name)  # raises where there is no such player
        del self.__dict__[name]
        return partial(self._watched, self.game.players[name])  # not kept: a circle would keep the run, too

    def _watched(self, player: Player, *inputs: Any) -> Any:
        given = trees.leaves(inputs)
        if any(map(is_transformed, given)):  # within a slope that the cost takes
            return player.at(self.parameters[player.role], self.held)(*inputs)

        def call() -> Any:
            found = player.at(self.parameters[player.role], trees.mapped(torch.clone, self.held))(*inputs)
            return trees.mapped(torch.clone, found)  # what is changed later is not what it gave

        noted = [_noted(leaf) for leaf in given]
        buffers = {name: _noted(own) for name, own in player.module.named_buffers()}
        with _unchanged(self._trace, player.role, self.parameters[player.role]):
            try:
                call()
            except (RuntimeError, IndexError) as error:
                raise ValueError(_not_accepted(player, inputs, error)) from error
            written = [_is_written(*of_leaf) for of_leaf in zip(given, noted, strict=True)]  # each is put back
            player.writes_inputs |= any(written)
            module, held = player.module, player.held
            player.held = tuple(
                name for name in buffers if name in held or _is_written(module.get_buffer(name), buffers[name])
            )
            self.held = {**self.game.held(), **self.held}
            _check_repeats(player.role, call, self._trace.weights.device)
        return player.at(self.parameters[player.role], self.held)(*inputs)


def _noted(tensor: Tensor) -> tuple[Tensor, int, Tensor]:
    return tensor, tensor._version, tensor.clone()


def _is_written(now: Tensor, noted: tuple[Tensor, int, Tensor]) -> bool:
    """Has a call written into a tensor, the same numbers perhaps, or put another in its place? It is put back."""
    before, version, value = noted
    # Its version alone does not tell: torch's batch_norm writes behind its back.
    if now is before and now._version == version and trees.equal(now, value):
        return False
    now.copy_(value)
    return True


def _not_accepted(player: Player, inputs: Any, error: Exception) -> str:
    given = {"generator": "latents", "discriminator": "rows", "model": "rows"}.get(player.role, "inputs")
    leaves = trees.leaves(inputs)
    instance = [tuple(leaf.shape if given == "latents" else leaf.shape[1:]) for leaf in leaves]
    return f"the {player.role} does not accept {given} of shape {' and '.join(map(str, instance))}: {error}"


def _check_repeats(role: str, call: Callable[[], Any], device: torch.device) -> Any:
    """Does a call give the same again, and without drawing? What it gives."""
    first = call()
    if not trees.equal(first, call()) or draws(call, device):
        raise ValueError(
            f"the {role} gives something else for the same batch at each call: it has randomness of its own, such as "
            "dropout or noise, or depends on a counter; "
            + _ADVICE.get(role, "put it in eval() mode, or take the noise from the batch")
        )
    return first


_ADVICE = {
    "generator": "put it in eval() mode, or make the noise part of the latents",
    "loss": "make it a function of the logits alone",
}


def _check_calls(trace: Trace, inputs: Inputs) -> None:
    """Is the cost a function of the batch, made of what a game needs, and what do its calls of the players change?"""
    game = trace.game
    for turn in dict.fromkeys((inputs.turn, (inputs.turn + 1) % game.period)):
        batch = inputs._replace(turn=turn)
        before = trees.mapped(torch.clone, batch.in_step)
        try:
            if isinstance(game.cost, Supervised):
                check_classes(game.loss, _Watched(trace).outputs(inputs.rows[0]), trace.data[1])
            costs = game.costs(_Watched(trace), batch)
        except (RuntimeError, IndexError) as error:
            raise ValueError(f"the cost of this batch cannot be computed: {error}") from error
        _check_form(game, costs, batch)
        if not trees.equal(batch.in_step, before):
            raise ValueError("the cost writes into its batch: let it work on copies, batch.rows.clone()")
    with _unchanged(trace, "loss", trace.theta()):
        costs = _check_repeats("loss", lambda: game.costs(Players(game, trace.theta()), inputs), trace.weights.device)
    game.seeing = frozenset(costs.rows)


def _check_form(game: Game, costs: Any, batch: Inputs) -> None:
    n, known = trees.length(batch.rows), ", ".join(game.players)
    if not isinstance(costs, Costs):
        raise TypeError(f"a cost must return gi.Costs(rows={{...}}, rest={{...}}), got {type(costs).__name__}")
    for part, shape in (("rows", (n,)), ("rest", ())):
        entries = getattr(costs, part)
        if not isinstance(entries, Mapping):
            raise TypeError(f"Costs.{part} must be {{player: tensor}}, got {type(entries).__name__}")
        for name, entry in entries.items():
            if name not in game.players:
                raise ValueError(f"the cost has {part} of {name!r}, but the players are {known}")
            if not isinstance(entry, Tensor) or tuple(entry.shape) != shape:
                got = f"shape {tuple(entry.shape)}" if isinstance(entry, Tensor) else type(entry).__name__
                wanted = f"one cost a row, of shape ({n},)" if part == "rows" else "a scalar"
                whose = "the loss" if game.loss is not None else f"the cost of the {name}"
                raise ValueError(f"{whose} gives {got} for {n} rows: it must give {wanted}")
    for name, player in game.players.items():
        if player.size and name not in costs.rows and name not in costs.rest:
            raise ValueError(
                f"the cost has no entry of the {name}, which would never learn: add one to rows or rest, or freeze its "
                "parameters with requires_grad_(False)"
            )


def _check_rows(trace: Trace, theta: Tensor, inputs: Inputs, elsewhere: bool = False) -> None:
    """Is each row's cost its own, whatever else is in the batch?

    Asked also elsewhere than at ``theta``: what mixes rows may be switched off by a gain that starts at 0.
    """
    game = trace.game
    held = trace.state().held or game.held()

    def logit(batch: Inputs) -> Tensor:
        return Players(game, theta, held).discriminate(batch.rows)

    def cost(name: str, batch: Inputs) -> Tensor:
        return game.costs(Players(game, theta, held), batch).rows[name]

    calls: list[tuple[str, str, Callable[[Inputs], Tensor]]] = []
    if isinstance(game.cost, GAN):
        calls.append(("discriminator", "logit", logit))
    for name in sorted(game.seeing):
        whose = "loss" if isinstance(game.cost, GAN) else name if game.loss is not None else f"cost of the {name}"
        calls.append((whose, "cost", partial(cost, name)))
    for whose, what, call in calls:
        together = call(inputs)
        if not together.isfinite().all():
            if elsewhere:
                return
            row = int((~together.isfinite()).nonzero()[0])
            raise ValueError(
                f"the {whose} gives row {row} of its batch the {what} {float(together[row])}, not a finite "
                "number: look at that row, and at log(), sqrt() and divisions"
            )
        if not game.rows_interact:
            _check_alone(whose, what, inputs, together, call)


def _check_alone(name: str, what: str, inputs: Inputs, together: Tensor, call: Callable[[Inputs], Tensor]) -> None:
    n = len(together)
    some = range(0, n, -(-n // _ROWS_ALONE))
    seen = [(row, _of_part(inputs, slice(row, row + 1), call)[0], "alone") for row in some]
    seen.append((0, _of_part(inputs, torch.arange(n).flip(0), call)[0].flip(0), "in the batch reversed"))
    tolerance = _rounding(together)
    for first, terms, how in seen:
        expected = together[first : first + len(terms)]
        different = ~torch.isclose(terms, expected, rtol=tolerance, atol=tolerance)
        if different.any():
            k = int(different.nonzero()[0])
            raise ValueError(
                f"the {name} gives row {first + k} of its batch the {what} {float(expected[k]):.6g}, but "
                f"{float(terms[k]):.6g} {how}: it uses batch statistics, and so no row has a term of its own that a "
                "removal would leave out. Take GroupNorm or LayerNorm; or give the game rows_interact=True, if a "
                "removal is to leave the row in the others' terms"
            )


def _of_part(inputs: Inputs, which: slice | Tensor, call: Callable[[Inputs], Any]) -> tuple[Any, Inputs]:
    """The call for some of the rows, and these: beside draws of their own where it takes as many, else beside all."""
    try:
        part = inputs.part(which)
        return call(part), part
    except (RuntimeError, ValueError, IndexError):
        part = inputs.part(which, with_draws=False)
        return call(part), part


def _check_finite(trace: Trace, inputs: Inputs) -> None:
    costs, _ = trace.game.losses(trace.theta(), inputs)
    players = [name for name in trace.game.players if name in costs and not costs[name].isfinite()]
    if players:
        raise ValueError(f"the cost of the {' and of the '.join(players)} is NaN or infinite at the start of training")


@contextmanager
def _unchanged(trace: Trace, role: str, theta: Tensor) -> Iterator[None]:
    """What is done here must leave the modules and the parameters as they are."""
    parameters, attributes = theta.clone(), _attributes(trace.game)
    yield
    for (owner, name), value in _attributes(trace.game).items():
        if not trees.equal(value, attributes.get((owner, name), value)):  # a log that grows does no harm
            raise ValueError(
                f"the {owner} changes its attribute {name!r} at every call, so no step can be replayed: a counter or a "
                "cache; make what depends on the step a function of the schedule, or leave it out"
            )
    if not trees.equal(theta, parameters):
        raise ValueError(
            f"the {role} writes into its own parameters when it is called (clamping, or Embedding(max_norm=...)): "
            "training is a function of the state before a step; make it an optimiser's, or a parametrisation"
        )


def _attributes(game: Game) -> dict[tuple[str, str], Any]:
    """The numbers that modules hold besides parameters and buffers, and those of the globals that they look up.

    Larger tensors are not looked at: what a module keeps of its outputs does no harm, and where it matters to the next
    call that call differs.
    """
    found: dict[tuple[str, str], Any] = {}
    for player in game.players.values():
        for path, part in player.module.named_modules():
            held = {name: value for name, value in vars(part).items() if name not in ("_parameters", "_buffers")}
            for name, value in (*held.items(), *globals_of(type(part).forward).items()):
                for where, number in _numbers(value, depth=3):
                    found[player.role, f"{path}.{name}{where}".removeprefix(".")] = number
    return found


def _numbers(value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """Numbers and strings in a value, with where in it they are."""
    if isinstance(value, Tensor) and value.numel() == 1:
        yield "", value.detach().clone()
    elif isinstance(value, int | float | str):
        yield "", value
    elif isinstance(value, dict | list | tuple | deque) and depth:
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            for where, number in _numbers(part, depth - 1):
                yield f"[{key!r}]{where}", number


def _check_parameters(trace: Trace, few: Inputs, given: Game) -> None:
    """Does a step's cost reach the parameters that the step is given, and no others?"""
    leaves = trace.game.leaves(trace.theta())
    reads = _Reads({**_parameters(trace.game), **_parameters(given)})
    with reads, torch.enable_grad():
        twice = [trace.game.losses(leaves, few)[0].values() for _ in range(2)]
    one, other = ([node.variable for node in nodes(*costs) if hasattr(node, "variable")] for costs in twice)
    lasting = [leaf for leaf in one if any(leaf is again for again in other)]  # and not made by the call itself
    foreign = [leaf for leaf in (*reads.found, *lasting) if not any(leaf is own for own in leaves)]
    if foreign:
        raise ValueError(
            f"the cost reads {reads.name(foreign[0])} other than as the parameter that a step moves, so that training "
            "would leave it as it is: a function that closes over a module (a lambda or a hook that uses self), a list "
            "of parameters, or a module of the loss's own. Make it a method or a part of the player, or freeze it with "
            "requires_grad_(False)"
        )


def _check_derivatives(trace: Trace, few: Inputs) -> None:
    """Can a step be differentiated twice?"""
    try:
        field = FieldGraph(trace.game, trace.theta(), few)
        names = {node.name() for node in nodes(*field.parts)}
        field.both(_moved(torch.zeros_like(trace.theta()), 1.0))
    except (RuntimeError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(_NOT_TWICE_DIFFERENTIABLE.format(str(error).split("\n")[0], _hint(error))) from error
    for start, what, hint in _WRONG_TWICE:
        if any(name.startswith(start) for name in names):
            raise ValueError(_NOT_TWICE_DIFFERENTIABLE.format(what, hint))


def _check_own_parameters(trace: Trace, few: Inputs, other: Game) -> None:
    """A step is given its parameters; those that the modules themselves hold must not matter."""
    theta = _moved(trace.theta(), 0.01)
    with torch.no_grad():
        of_players = zip(other.players.values(), trace.game.players.values(), other.split(theta), strict=True)
        for player, own, part in of_players:
            player.held, player.writes_inputs = own.held, own.writes_inputs
            for name, value in player.unflatten(part).items():
                player.module.get_parameter(name).copy_(value)
    of_one, of_other = (game.field(game.leaves(theta), few)[0] for game in (trace.game, other))
    # The discriminator first: the generator's gradient passes through it.
    for player, one, held in reversed(list(zip(trace.game.players.values(), of_one, of_other, strict=True))):
        tolerance = _rounding(one) * float(held.nan_to_num(0, 0, 0).abs().max()) if held.numel() else 0.0
        if not torch.allclose(one, held, rtol=_rounding(one), atol=tolerance, equal_nan=True):
            raise ValueError(
                f"the {player.role}'s gradient depends on the parameters that the modules held before the step: the "
                "forward pass is computed again while it is differentiated, as torch.utils.checkpoint does, or keeps "
                "something from an earlier call. Call its blocks without checkpoint"
            )


class _Reads(TorchFunctionMode):
    """Which of these parameters torch's functions are given, while this is entered."""

    def __init__(self, named: dict[int, tuple[str, Tensor]]):
        super().__init__()
        self.named = named
        self.found: list[Tensor] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") != "__get__":  # a shape or a device
            for leaf in tree_leaves((args, kwargs)):
                if id(leaf) in self.named:
                    self.found.append(leaf)
        return function(*args, **(kwargs or {}))

    def name(self, leaf: Tensor) -> str:
        return self.named[id(leaf)][0] if id(leaf) in self.named else f"a parameter of shape {tuple(leaf.shape)}"


def _parameters(game: Game) -> dict[int, tuple[str, Tensor]]:
    return {
        id(p): (f"the {player.role}'s parameter {name!r}", p)
        for player in game.players.values()
        for name, p in player.module.named_parameters()
        if p.requires_grad
    }


_NOT_TWICE_DIFFERENTIABLE = "a step of training cannot be differentiated twice, as ITD and AID need ({}): {}"
_WRONG_TWICE = (  # where torch is silent: how the name of an operation's node begins, what is wrong, what to do
    (
        "WeightNormInterfaceBackward",
        "torch's derivative of the derivative of torch._weight_norm is wrong",
        "compute g * v / v.norm() from v and g, or take torch.nn.utils.parametrizations.weight_norm, put right here",
    ),
    (
        "torch::autograd::Error",
        "a torch.autograd.Function is once_differentiable",
        "write its backward with differentiable operations, and without that decorator",
    ),
)


def _hint(error: Exception) -> str:
    if "attention" in str(error):
        return (
            "call the attention within torch.nn.attention.sdpa_kernel(SDPBackend.MATH), in a module's forward, and a "
            "MultiheadAttention in train() mode with dropout=0"
        )
    return "replace the operation that it names; torch.utils.checkpoint is to be left out"


def _warn_of_derivatives(trace: Trace, few: Inputs, other: Game) -> None:
    off = _off_from_differences(trace, few, other)
    if off > _OFF:
        warn(
            f"the second derivative of a step of training, as torch computes it, is off by {off:.1g} (relative) from "
            "finite differences of the first: a module or the loss holds a detach(), an operation whose second "
            "derivative torch gets wrong, or buffers that its calls change, as spectral_norm's vectors are. ITD and "
            "AID leave that out, retraining does not: ask gi.validate(trace, metric, scores)"
        )


def _off_from_differences(trace: Trace, few: Inputs, game: Game) -> float:
    """How far ``J^T c`` is from central differences of v, in float64; 0 where the players cannot be made float64.

    With the difference ``J d`` for c, ``<J^T c, d> = |c|^2``. The smaller of two directions counts: one may hit a kink.
    They leave out parameters whose slope is 0, such as an embedding's padding, which training does not move. Where a
    difference ten times as far is another one, at a kink or where a module computes in single precision all the same,
    differences tell nothing.
    """
    for player in game.players.values():
        player.module.double()
    theta = _moved(trace.theta().double(), 0.01)
    few = trees.mapped(lambda part: part.double() if part.is_floating_point() else part, few)

    def field(theta: Tensor) -> Tensor:
        return torch.cat(game.field(game.leaves(theta), few)[0])

    def off(seed: int) -> float:
        d = _moved(torch.zeros_like(theta), 1.0, seed) * theta.square().mean().sqrt() * (field(theta) != 0)
        c, further = ((field(theta + h * d) - field(theta - h * d)) / (2 * h) for h in (_NEAR, 10 * _NEAR))
        if (c - further).norm() > _TELLING * c.norm():
            return 0.0
        product, _ = FieldGraph(game, theta, few).both(c)
        size = c.square().sum() + (field(theta).norm() * 1e-3) ** 2  # where J is 0, differences are rounding
        return float((c.square().sum() - product @ d).abs() / size)

    try:
        found = min(off(1), off(2))
    except (RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        return 0.0
    return found if found == found else 0.0


def _warn_of_ranges(trace: Trace, inputs: Inputs) -> None:
    """Of a sigmoid where the loss takes logits, and of data in another range than the generator's."""
    game = trace.game
    if not isinstance(game.cost, GAN) or not isinstance(inputs.rows, Tensor):
        return
    players = Players(game, game.leaves(trace.theta()))
    with torch.enable_grad():
        generated = players.generator(inputs.latents)
        outputs = players.discriminator(generated.detach())
    if _ends_in(outputs) == "Sigmoid" and game.loss in (LOSSES["minimax"], LOSSES["non_saturating"]):
        warn("the discriminator ends in a sigmoid, but the loss takes logits and has one of its own: leave it out")
    if not inputs.rows.is_floating_point():  # levels, which the discriminator must scale: it could not take them else
        return
    low, high = {"Tanh": (-1.0, 1.0), "Sigmoid": (0.0, 1.0)}.get(_ends_in(generated), (-torch.inf, torch.inf))
    least, most = float(inputs.rows.min()), float(inputs.rows.max())
    room = 10 * (high - low)  # standardised data reach a few deviations, which a Tanh is at times asked for
    if least < low - room or most > high + room:
        warn(
            f"the generator makes numbers from {low:g} to {high:g}, but the data's rows have some from {least:g} to "
            f"{most:g}: scale the data"
        )


_VIEWS = ("View", "Unsafe", "Squeeze", "Unsqueeze", "Reshape", "Alias", "Select", "Transpose", "Permute", "Clone", "T")


def _ends_in(output: Tensor) -> str:
    """The activation that made an output: ``"Sigmoid"``, ``"Tanh"`` or something else."""
    node = output.grad_fn
    while node is not None and node.name().startswith(tuple(f"{view}Backward" for view in _VIEWS)):
        node = node.next_functions[0][0]
    name = "" if node is None else node.name().removesuffix("0").removesuffix("Backward")
    return "Sigmoid" if name == "_Squashed" else name


def _moved(theta: Tensor, by: float, seed: int = 0) -> Tensor:
    """Parameters near by: each moved by a share of its size and of 1."""
    noise = torch.randn(theta.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(theta)
    return theta + by * noise * (1 + theta.abs())


def _rounding(numbers: Tensor) -> float:
    return 1e3 * torch.finfo(numbers.dtype).eps
