"""May this run be scored? Asked once before training, and once at its end.

What the scores rest on is true of most games and cannot be seen in their results where it is not: every call of a
module, a loss or the schedule gives the same; a row's cost is its own; the parameters that a cost reaches are the
players'; torch's second derivative of a step is the derivative of its first.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from gan_influence.adjoint import FieldGraph
from gan_influence.devices import is_out_of_memory, repeatable
from gan_influence.game import Game, Player, Players, Rows, first_rows
from gan_influence.identity import globals_of
from gan_influence.losses import LOSSES, check_targets
from gan_influence.randomness import draws
from gan_influence.steps import step, step_inputs
from gan_influence.trace import StepInputs, Trace

__all__ = ["check_data", "check_end", "check_start"]

_ROWS_ALONE = 4  # of a batch; each is a call
_PROBED = 16  # rows, and as many latents, to differentiate a step twice
_NEAR = 1e-7  # of the parameters: so near that hardly a kink lies between, and 1e-8 of a slope is rounding
_TELLING, _OFF = 1e-3, 1e-5  # relative: of differences from each other, and of the derivative from them


def check_data(game: Game, data: Rows) -> None:
    """Tensors of finite rows, of the players' type, with a target each in a one-player game.

    Raises:
        TypeError, ValueError: they are not; the message names the first bad row.
    """
    if game.one_player:
        if not (isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)):
            raise TypeError(f"the data of a one-player game is a pair of tensors (inputs, targets), got {_kind(data)}")
        inputs, targets = data
        if targets.ndim == 0 or len(inputs) != len(targets):
            raise ValueError(f"there are {len(inputs)} inputs, but targets of shape {tuple(targets.shape)}: one a row")
        if targets.is_floating_point() and not targets.isfinite().all():
            raise ValueError("targets contain NaN or infinity: remove or repair such rows")
        check_targets(game.loss, targets)
    rows = first_rows(data)
    if not isinstance(rows, Tensor) or (isinstance(data, tuple) and not game.one_player):
        raise TypeError(f"data must be a torch tensor (N, *instance_shape), got {_kind(data)}")
    if rows.ndim == 0 or len(rows) == 0:
        raise ValueError(f"data must hold at least one row, got shape {tuple(rows.shape)}")
    if rows.dtype != game.dtype:
        raise TypeError(
            f"the data is {str(rows.dtype).removeprefix('torch.')}, but the players' parameters are "
            f"{str(game.dtype).removeprefix('torch.')}: convert one of them"
        )
    if not rows.isfinite().all():
        row = int((~rows.isfinite()).reshape(len(rows), -1).any(-1).nonzero()[0])
        raise ValueError(f"data contains NaN or infinity, first in row {row}: remove or repair such rows")


def check_start(trace: Trace, given: Game) -> None:
    """Can a run that begins like this be replayed, and its steps be differentiated?

    Args:
        trace: at its start. Players that work in place on what they are given are marked here, to be given copies.
        given: the game whose copy it plays.

    Raises:
        TypeError, ValueError: it cannot; the message names the culprit and what to do.

    Warns:
        RuntimeWarning: torch's second derivative of a step is not the derivative of its first; values in ranges that
            do not belong together.
    """
    _check_schedule(trace, 0)
    other = trace.game.snapshot(trace.weights.device)  # now: a module may keep something of a call, and then not copy
    inputs = trace.inputs(0)
    with repeatable(trace.weights.device):
        with torch.no_grad():
            if not trace.game.one_player:
                _check_generator(trace, inputs.latents)
            elif inputs.latents.numel():
                raise ValueError(
                    "the schedule gives latents, but a one-player game has no generator to take them: give none"
                )
            _check_rows(trace, trace.theta(), inputs)
            _check_rows(trace, _moved(trace.theta(), 0.01), inputs, elsewhere=True)
            _check_costs(trace, inputs)
        few = _few(trace, inputs)
        _check_parameters(trace, few, given)
        _check_derivatives(trace, few)
        _check_own_parameters(trace, few, other)
        _warn_of_derivatives(trace, few, other)
        _warn_of_ranges(trace, inputs)


def check_end(trace: Trace, before: Float[Tensor, "rows d"]) -> None:
    """Was the run what its steps say? Its last step is taken once more, and its rows looked at as at the start.

    Args:
        trace: a run of a step or more.
        before: the state before its last step.

    Raises:
        RuntimeError: the last step leads elsewhere.
        ValueError: a row's cost is not its own any more.
    """
    last, kept = trace.steps - 1, trace.state()
    inputs = trace.inputs(last)
    with repeatable(trace.weights.device):
        with torch.no_grad():
            _check_rows(trace, kept[0], inputs)
        tensors = step_inputs(inputs, trace.weights)
        again = step(trace.game, trace.updates, trace.updates.phases(last), before, *tensors)
    if not torch.allclose(again, kept, rtol=_rounding(kept), atol=_rounding(kept) * float(kept.abs().max())):
        raise RuntimeError(
            f"step {last} of this run, taken once more, does not lead to the state that training reached: the modules, "
            "the loss, the optimiser or the schedule are not the same at every call. A counter, noise or a cache of "
            "their own is the usual reason"
        )


def _check_schedule(trace: Trace, t: int) -> None:
    for one, other in zip(trace.batch(t), trace.batch(t), strict=True):
        if not _equal(one, other):
            raise ValueError(
                f"the schedule gives another batch of step {t} at each call: it must be a pure function of t, since "
                "retraining and the reverse sweep ask again. Derive what is random from a seed and t, as Minibatches "
                "does, or draw all batches beforehand"
            )


def _check_generator(trace: Trace, latents: Tensor) -> None:
    if trace.batch(0).latents is None:
        raise ValueError(
            "the schedule gives no latents for the generator: FullBatch(latents), Minibatches(..., latent_shape=...)"
        )
    if latents.dtype != trace.weights.dtype:
        raise TypeError(f"the latents are {latents.dtype}, but the data is {trace.weights.dtype}: convert one")

    theta = trace.theta()

    def generate() -> Tensor:
        try:
            return trace.game.generator.at(trace.game.split(theta)[0])(latents)
        except RuntimeError as error:
            raise ValueError(
                f"the generator does not accept latents of shape {tuple(latents.shape)}: {error}"
            ) from error

    generated = _the_same_twice(trace, trace.game.generator, theta, latents, generate)
    instance = tuple(first_rows(trace.data).shape[1:])
    if tuple(generated.shape) != (len(latents), *instance):
        raise ValueError(
            f"the generator makes rows of shape {tuple(generated.shape[1:])} "
            f"(output {tuple(generated.shape)} for {len(latents)} latents), but the data's rows have shape {instance}"
        )


def _check_rows(trace: Trace, theta: Tensor, inputs: StepInputs, elsewhere: bool = False) -> None:
    """Is each row's cost its own, whatever else is in the batch?

    Asked also elsewhere than at ``theta``: what mixes rows may be switched off by a gain that starts at 0.
    """
    game, rows = trace.game, inputs.rows
    psi = game.split(theta)[1]
    player = game.discriminator
    logits = not game.one_player
    calls: dict[str, Callable[[Rows], Tensor]] = {"cost": lambda rows: _row_costs(game, psi, rows)}
    if logits:
        calls = {"logit": lambda rows: _logits(game, psi, rows), **calls}
    for what, call in calls.items():
        whose = None if what == "cost" and logits else player
        together = _the_same_twice(trace, whose, theta, first_rows(rows), partial(call, rows))
        if not together.isfinite().all():
            if elsewhere:
                return
            row = int((~together.isfinite()).nonzero()[0])
            raise ValueError(
                f"the {_named(whose)} gives row {row} of its batch the {what} {float(together[row])}, not a finite "
                "number: look at that row, and at log(), sqrt() and divisions"
            )
        _check_alone(_named(whose), what, rows, together, call)


def _named(player: Player | None) -> str:
    return "loss" if player is None else player.role


def _check_alone(name: str, what: str, rows: Rows, together: Tensor, call: Callable[[Rows], Tensor]) -> None:
    n = len(together)
    backwards = torch.arange(n).flip(0)
    seen = [(row, call(_picked(rows, slice(row, row + 1))), "alone") for row in range(0, n, -(-n // _ROWS_ALONE))]
    seen.append((0, call(_picked(rows, backwards)).flip(0), "in the batch reversed"))
    tolerance = _rounding(together)
    for first, terms, how in seen:
        expected = together[first : first + len(terms)]
        different = ~torch.isclose(terms, expected, rtol=tolerance, atol=tolerance)
        if different.any():
            k = int(different.nonzero()[0])
            raise ValueError(
                f"the {name} gives row {first + k} of its batch the {what} {float(expected[k]):.6g}, but "
                f"{float(terms[k]):.6g} {how}: it uses batch statistics, and so no row has a term of its own that a "
                "removal would leave out"
            )


def _check_costs(trace: Trace, inputs: StepInputs) -> None:
    theta = trace.theta()
    phi, psi = trace.game.split(theta)
    weights = inputs.of_batch(trace.weights)

    def costs() -> Tensor:
        return torch.stack(trace.game.losses(phi, psi, inputs.rows, inputs.latents, weights))

    found = _the_same_twice(trace, None, theta, inputs.latents, costs)
    if not found.isfinite().all():
        players = [player.role for player, cost in zip(trace.game.players, found, strict=True) if not cost.isfinite()]
        raise ValueError(f"the cost of the {' and of the '.join(players)} is NaN or infinite at the start of training")


def _the_same_twice(
    trace: Trace, player: Player | None, theta: Tensor, given: Tensor, call: Callable[[], Tensor]
) -> Tensor:
    """What the call gives, if it gives it twice and leaves behind what it found.

    Args:
        trace: whose game.
        player: that is called, ``None`` for the loss.
        theta, given: the parameters and the input of the call.
        call: without arguments.
    """
    role = _named(player)
    before, version = given.clone(), given._version
    with _unchanged(trace, role, theta):
        first = call()
        if player is not None and (given._version != version or not torch.equal(given, before)):
            player.writes_inputs = True
            given.copy_(before)
            first = call()
        second = call()
    if not _equal(first, second) or draws(call, trace.weights.device):
        raise ValueError(
            f"the {role} gives something else for the same batch at each call: it has randomness of its own, such as "
            f"dropout, which no replay can repeat; {_ADVICE.get(role, 'put it in eval() mode')}"
        )
    return first


_ADVICE = {
    "generator": "put it in eval() mode, or make the noise part of the latents",
    "loss": "make it a function of the logits alone",
}


@contextmanager
def _unchanged(trace: Trace, role: str, theta: Tensor) -> Iterator[None]:
    """What is done here must leave the modules and the parameters as they are."""
    parameters, buffers, attributes = theta.clone(), _buffers(trace.game), _attributes(trace.game)
    yield
    for (owner, name), value in _buffers(trace.game).items():
        if not _equal(value, buffers[owner, name]):
            raise ValueError(
                f"the {owner} changes its buffer {name!r} at every call, so no step can be replayed: call .eval(). "
                "That freezes running statistics, and the vectors of spectral_norm too: to go on normalising, "
                "parametrise with weight / torch.linalg.matrix_norm(weight, 2)"
            )
    for (owner, name), value in _attributes(trace.game).items():
        if not _equal(value, attributes.get((owner, name), value)):  # a log that grows does no harm
            raise ValueError(
                f"the {owner} changes its attribute {name!r} at every call, so no step can be replayed: a counter or a "
                "cache; make what depends on the step a function of the schedule, or leave it out"
            )
    if not _equal(theta, parameters):
        raise ValueError(
            f"the {role} writes into its own parameters when it is called (clamping, or Embedding(max_norm=...)): "
            "training is a function of the state before a step; make it an optimiser's, or a parametrisation"
        )


def _buffers(game: Game) -> dict[tuple[str, str], Tensor]:
    return {
        (player.role, name): buffer.clone() for player in game.players for name, buffer in player.module.named_buffers()
    }


def _attributes(game: Game) -> dict[tuple[str, str], Any]:
    """The numbers that modules hold besides parameters and buffers, and those of the globals that they look up.

    Larger tensors are not looked at: what a module keeps of its outputs does no harm, and where it matters to the next
    call that call differs.
    """
    found: dict[tuple[str, str], Any] = {}
    for player in game.players:
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


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        same = one.shape == other.shape and one.dtype == other.dtype
        return same and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    return type(one) is type(other) and bool(one == other)


def _row_costs(game: Game, psi: Tensor, rows: Rows) -> Float[Tensor, " batch"]:
    costs = _accepted(game, rows, lambda: game.row_costs(psi, rows))
    if costs.shape != (len(first_rows(rows)),):
        raise ValueError(
            f"the loss gives shape {tuple(costs.shape)} for {len(first_rows(rows))} rows: it must give one cost a row"
        )
    return costs


def _logits(game: Game, psi: Tensor, rows: Rows) -> Float[Tensor, " batch"]:
    return _accepted(game, rows, lambda: Players(game, psi, psi).discriminate(first_rows(rows)))


def _accepted(game: Game, rows: Rows, call: Callable[[], Tensor]) -> Tensor:
    try:
        return call()
    except (RuntimeError, IndexError) as error:
        role, shape = game.discriminator.role, tuple(first_rows(rows).shape[1:])
        raise ValueError(f"the {role} does not accept rows of shape {shape}: {error}") from error


def _few(trace: Trace, inputs: StepInputs) -> tuple[Rows, Tensor, Tensor]:
    """Some of a step's rows and latents, with the rows' weights; all latents where the generator wants that number."""
    rows, weights = _picked(inputs.rows, slice(_PROBED)), inputs.of_batch(trace.weights)[:_PROBED]
    latents = inputs.latents[:_PROBED]
    try:
        with torch.no_grad():
            trace.game.generator.at(trace.game.split(trace.theta())[0])(latents)
    except RuntimeError:
        latents = inputs.latents
    return rows, latents, weights


def _check_parameters(trace: Trace, few: tuple[Rows, Tensor, Tensor], given: Game) -> None:
    """Does a step's cost reach the parameters that the step is given, and no others?"""
    phi, psi = trace.game.leaves(trace.theta())
    reads = _Reads({**_parameters(trace.game), **_parameters(given)})
    with reads, torch.enable_grad():
        twice = [trace.game.losses(phi, psi, *few) for _ in range(2)]
    one, other = ([node.variable for node in _nodes(*costs) if hasattr(node, "variable")] for costs in twice)
    lasting = [leaf for leaf in one if any(leaf is again for again in other)]  # and not made by the call itself
    foreign = [leaf for leaf in (*reads.found, *lasting) if leaf is not phi and leaf is not psi]
    if foreign:
        raise ValueError(
            f"the cost reads {reads.name(foreign[0])} other than as the parameter that a step moves, so that training "
            "would leave it as it is: a function that closes over a module (a lambda or a hook that uses self), a list "
            "of parameters, or a module of the loss's own. Make it a method or a part of the player, or freeze it with "
            "requires_grad_(False)"
        )


def _check_derivatives(trace: Trace, few: tuple[Rows, Tensor, Tensor]) -> None:
    """Can a step be differentiated twice?"""
    rows, latents, weights = few
    try:
        field = FieldGraph(trace.game, trace.theta(), weights, rows, latents)
        names = {node.name() for node in _nodes(*field.parts)}
        field.both(_moved(torch.zeros_like(trace.theta()), 1.0))
    except (RuntimeError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(_NOT_TWICE_DIFFERENTIABLE.format(str(error).split("\n")[0], _hint(error))) from error
    for start, what, hint in _WRONG_TWICE:
        if any(name.startswith(start) for name in names):
            raise ValueError(_NOT_TWICE_DIFFERENTIABLE.format(what, hint))


def _check_own_parameters(trace: Trace, few: tuple[Rows, Tensor, Tensor], other: Game) -> None:
    """A step is given its parameters; those that the modules themselves hold must not matter."""
    theta = _moved(trace.theta(), 0.01)
    with torch.no_grad():
        for player, own, part in zip(other.players, trace.game.players, other.split(theta), strict=True):
            player.writes_inputs = own.writes_inputs
            for name, value in player.unflatten(part).items():
                player.module.get_parameter(name).copy_(value)
    of_one, of_other = (game.gradient(*game.leaves(theta), *few) for game in (trace.game, other))
    # The discriminator first: the generator's gradient passes through it.
    for player, one, held in reversed(list(zip(trace.game.players, of_one, of_other, strict=True))):
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
        for player in game.players
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


def _nodes(*outputs: Tensor) -> set[Any]:
    """The graph of these outputs."""
    waiting, seen = [output.grad_fn for output in outputs], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
    return seen


def _hint(error: Exception) -> str:
    if "attention" in str(error):
        return (
            "call the attention within torch.nn.attention.sdpa_kernel(SDPBackend.MATH), in a module's forward, and a "
            "MultiheadAttention in train() mode with dropout=0"
        )
    return "replace the operation that it names; torch.utils.checkpoint is to be left out"


def _warn_of_derivatives(trace: Trace, few: tuple[Rows, Tensor, Tensor], other: Game) -> None:
    off = _off_from_differences(trace, few, other)
    if off > _OFF:
        warnings.warn(
            f"the second derivative of a step of training, as torch computes it, is off by {off:.1g} (relative) from "
            "finite differences of the first: a module or the loss holds a detach(), or an operation whose second "
            "derivative torch gets wrong. ITD and AID leave that out, retraining does not: ask "
            "gi.validate(trace, metric, scores)",
            RuntimeWarning,
            stacklevel=5,
        )


def _off_from_differences(trace: Trace, few: tuple[Rows, Tensor, Tensor], game: Game) -> float:
    """How far ``J^T c`` is from central differences of v, in float64; 0 where the players cannot be made float64.

    With the difference ``J d`` for c, ``<J^T c, d> = |c|^2``. The smaller of two directions counts: one may hit a kink.
    They leave out parameters whose slope is 0, such as an embedding's padding, which training does not move. Where a
    difference ten times as far is another one, at a kink or where a module computes in single precision all the same,
    differences tell nothing.
    """
    for player in game.players:
        player.module.double()
    theta = _moved(trace.theta().double(), 0.01)
    rows: Rows = tuple(map(_widened, few[0])) if isinstance(few[0], tuple) else _widened(few[0])
    latents, weights = _widened(few[1]), _widened(few[2])

    def field(theta: Tensor) -> Tensor:
        return torch.cat(game.gradient(*game.leaves(theta), rows, latents, weights))

    def off(seed: int) -> float:
        d = _moved(torch.zeros_like(theta), 1.0, seed) * theta.square().mean().sqrt() * (field(theta) != 0)
        c, further = ((field(theta + h * d) - field(theta - h * d)) / (2 * h) for h in (_NEAR, 10 * _NEAR))
        if (c - further).norm() > _TELLING * c.norm():
            return 0.0
        product, _ = FieldGraph(game, theta, weights, rows, latents).both(c)
        size = c.square().sum() + (field(theta).norm() * 1e-3) ** 2  # where J is 0, differences are rounding
        return float((c.square().sum() - product @ d).abs() / size)

    try:
        found = min(off(1), off(2))
    except (RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        return 0.0
    return found if found == found else 0.0


def _widened(part: Tensor) -> Tensor:
    return part.double() if part.is_floating_point() else part


def _warn_of_ranges(trace: Trace, inputs: StepInputs) -> None:
    """Of a sigmoid where the loss takes logits, and of data in another range than the generator's."""
    game = trace.game
    if game.one_player:
        return
    players = Players(game, *game.leaves(trace.theta()))
    with torch.enable_grad():
        generated = game.generator.at(players.phi)(inputs.latents)
        logits = players.discriminate(generated.detach())
    if _ends_in(logits) == "Sigmoid" and game.loss in (LOSSES["minimax"], LOSSES["non_saturating"]):
        warnings.warn(
            "the discriminator ends in a sigmoid, but the loss takes logits and has a sigmoid of its own: leave it out",
            RuntimeWarning,
            stacklevel=5,
        )
    low, high = {"Tanh": (-1.0, 1.0), "Sigmoid": (0.0, 1.0)}.get(_ends_in(generated), (-torch.inf, torch.inf))
    least, most = float(inputs.rows.min()), float(inputs.rows.max())
    room = 10 * (high - low)  # standardised data reach a few deviations, which a Tanh is at times asked for
    if least < low - room or most > high + room:
        warnings.warn(
            f"the generator makes numbers from {low:g} to {high:g}, but the data's rows have some from {least:g} to "
            f"{most:g}: scale the data",
            RuntimeWarning,
            stacklevel=5,
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


def _picked(rows: Rows, which: slice | Tensor) -> Rows:
    return tuple(part[which] for part in rows) if isinstance(rows, tuple) else rows[which]


def _kind(data: object) -> str:
    return type(data).__name__
