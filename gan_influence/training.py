"""The (A)SGD loop: ``theta^(t+1) = update(theta^(t), v_w(theta^(t)))``, for one model or for many at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from gan_influence.checks import is_whole
from gan_influence.game import Game
from gan_influence.optim import Optimizer, Updates
from gan_influence.recording import Recorded
from gan_influence.schedule import Schedule
from gan_influence.trace import Trace

__all__ = ["DivergenceError", "check_removal", "retrain", "states", "train"]

_CHECK_EVERY = 64  # a finiteness check costs about as much as a small kernel and, on a GPU, a synchronisation


class DivergenceError(RuntimeError):
    """Parameters stopped being finite.

    Attributes:
        step: the step whose update was the first not to be finite.
        player: whose parameters those are.
        model: which of the models trained together, or ``None`` where there was one.
    """

    def __init__(self, step: int, player: str, part: str, model: int | None, losses: tuple[int, float, float] | None):
        self.step, self.player, self.model = step, player, model
        before = f"no finite losses in the {_CHECK_EVERY} steps before"
        if losses is not None:
            before = (
                f"last finite losses, at step {losses[0]}: generator {losses[1]:.6g}, discriminator {losses[2]:.6g}"
            )
        super().__init__(
            f"training diverged at step {step}: the {player}'s {part} no longer finite ({before}). "
            "Lower the learning rate, shorten the run or add l2."
        )


def train(
    game: Game,
    data: Float[Tensor, "N *instance"],
    schedule: Schedule,
    steps: int,
    optimizer: Optimizer | tuple[Optimizer, Optimizer],
    *,
    weights: Float[Tensor, " N"] | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Trace:
    """Train both players simultaneously (TNNLS eq. 3) from the modules' current parameters, and remember every step.

    Args:
        game: what each player minimises. Its modules are copied, never changed.
        data: the training rows, in the players' data type.
        schedule: the batch of every step, such as ``FullBatch(latents)``.
        steps: ``T >= 0``.
        optimizer: one for both players, or ``(for_generator, for_discriminator)``.
        weights: a weight per row, 1 by default; 0 trains without the row, the denominator unchanged (TNNLS eq. 6).
        device: where to train; by default where ``data`` is.
        progress: show a progress bar.

    Raises:
        TypeError: data, latents and players differ in data type, or something given is of the wrong kind.
        ValueError: empty or non-finite data, shapes that do not fit the modules, a negative number of steps.
        DivergenceError: parameters stopped being finite; the message names the step, the player and the last losses.
    """
    if not is_whole(steps) or steps < 0:
        raise ValueError(f"steps must be a whole number >= 0, got {steps!r}")
    if not isinstance(game, Game):
        raise TypeError(f"game must be a Game(generator, discriminator, loss=...), got {type(game).__name__}")
    if not callable(schedule):
        raise TypeError(
            "schedule must give the batch of step t as schedule(t), such as FullBatch(latents), "
            f"got {type(schedule).__name__}"
        )
    _check_data(game, data)
    home = torch.device(device) if device is not None else data.device
    game = game.snapshot(home)
    updates = Updates(optimizer, game)
    data = data.detach().to(home, copy=True)
    weights = torch.ones(len(data)) if weights is None else torch.as_tensor(weights).detach().clone()
    weights = weights.to(home, data.dtype)
    if weights.shape != (len(data),) or not weights.isfinite().all():
        raise ValueError(f"weights must be {len(data)} finite numbers, one a row, got shape {tuple(weights.shape)}")
    start = updates.start(game.theta().to(home))
    trace = Trace(game, data, schedule, updates, weights, start.unsqueeze(0))
    _check_fit(trace)
    return _extend(trace, steps, progress)


def retrain(trace: Trace, removed: Iterable[int], last: int | None = None, *, progress: bool = False) -> Trace:
    """Train once more without the rows ``removed``: counterfactual AGD (TNNLS eq. 7).

    Args:
        trace: the factual run; its initial state, batches and optimisers are used again.
        removed: row indices. Their weight becomes 0; the denominators stay (TNNLS eq. 6).
        last: retrain only that many final steps, from the factual state before them; by default all.

    Returns:
        A trace that starts at the first retrained step.

    Raises:
        IndexError, TypeError, ValueError: a removed row is out of range, no integer, or named twice.
    """
    weights = trace.weights.clone()
    weights[check_removal(removed, len(trace.data), "removed")] = 0
    start = trace.window(last)
    begun = Trace(
        trace.game, trace.data, trace.schedule, trace.updates, weights, trace.state(start).unsqueeze(0), first=start
    )
    return _extend(begun, trace.steps - start, progress)


def states(
    trace: Trace,
    state: Float[Tensor, "*models rows d"],
    weights: Float[Tensor, "*models N"],
    steps: Iterable[int],
) -> Iterator[tuple[int, Float[Tensor, "*models rows d"]]]:
    """Yield ``(t + 1, state after step t)`` for each ``t`` of ``steps``, for one model or many trained at once.

    Raises:
        DivergenceError: parameters stopped being finite, found at most 64 steps later and traced back.
    """
    checked, since = state, []
    step = Recorded(partial(_step, trace.game, trace.updates))
    for t in steps:
        state = step(*_step_inputs(trace, t, state, weights))
        since.append(t)
        if len(since) == _CHECK_EVERY:
            _check_finite(trace, checked, weights, since, state)
            checked, since = state, []
        yield t + 1, state
    _check_finite(trace, checked, weights, since, state)


def check_removal(removed: Iterable[int], n_rows: int, name: str) -> list[int]:
    """``removed`` as a list of distinct row indices in range.

    Raises:
        TypeError: not a collection of integers.
        IndexError: an index is outside ``0 ... n_rows - 1``.
        ValueError: an index is there twice.
    """
    if isinstance(removed, str) or not isinstance(removed, Iterable):
        raise TypeError(f"{name} must be a list of row indices, got {removed!r}")
    rows: list[int] = []
    for index in removed.tolist() if isinstance(removed, Tensor) else removed:
        row = index.item() if isinstance(index, Tensor | np.generic) else index
        if not is_whole(row):
            raise TypeError(f"{name} contains {row!r}, which is not a row index (an integer)")
        if not 0 <= row < n_rows:
            raise IndexError(f"{name} contains {row}, but the data has {n_rows} rows")
        if row in rows:
            raise ValueError(f"{name} contains {row} twice: a row can be removed only once")
        rows.append(row)
    return rows


def _extend(trace: Trace, steps: int, progress: bool) -> Trace:
    kept = trace.states.new_empty(steps + 1, *trace.states.shape[1:])
    kept[0] = trace.states[0]
    taken = tqdm(range(trace.first, trace.first + steps), desc="training", unit="step", disable=not progress)
    for after, state in states(trace, trace.states[0], trace.weights, taken):
        kept[after - trace.first] = state
    return Trace(trace.game, trace.data, trace.schedule, trace.updates, trace.weights, kept, trace.first)


def _step(
    game: Game, updates: Updates, state: Tensor, weights: Tensor, rows: Tensor, latents: Tensor, t: Tensor
) -> Tensor:
    phi, psi = game.leaves(state[..., 0, :])
    gradient = game.gradient(phi, psi, rows, latents, weights)
    return updates(t, state, torch.cat(gradient, dim=-1))


def _step_inputs(trace: Trace, t: int, state: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    inputs = trace.inputs(t)
    return state, inputs.of_batch(weights), inputs.rows, inputs.latents, inputs.time


def _check_finite(trace: Trace, before: Tensor, weights: Tensor, steps: list[int], after: Tensor) -> None:
    """Find the first step of ``steps``, leading from ``before`` to ``after``, whose update is not finite."""
    if after.isfinite().all():
        return
    replayed = [before]
    for t in steps:
        replayed.append(_step(trace.game, trace.updates, *_step_inputs(trace, t, replayed[-1], weights)))
        if not replayed[-1].isfinite().all():
            break
    else:
        raise RuntimeError(
            f"parameters stopped being finite between steps {steps[0]} and {steps[-1]}, but not when these steps were "
            "repeated: this device does not compute the same twice, see torch.use_deterministic_algorithms"
        )
    bad = ~replayed[-1].isfinite()
    model = None if before.ndim == 2 else int(bad.any(-1).any(-1).nonzero()[0])
    bad = bad if model is None else bad[model]
    losses = None
    for earlier, state in zip(steps, replayed[:-1], strict=False):
        costs = _losses_of(trace, earlier, state if model is None else state[model], weights, model)
        losses = (earlier, *costs) if all(map(math.isfinite, costs)) else losses
    part = "parameters are" if bad[0].any() else "optimiser state is"
    of_generator, _ = trace.game.split(bad[0] if bad[0].any() else bad.any(0))
    raise DivergenceError(t, "generator" if of_generator.any() else "discriminator", part, model, losses)


def _losses_of(trace: Trace, t: int, state: Tensor, weights: Tensor, model: int | None) -> tuple[float, float]:
    inputs = trace.inputs(t)
    own = inputs.of_batch(weights if model is None else weights[model])
    of_generator, of_discriminator = trace.game.losses(*trace.game.split(state[0]), inputs.rows, inputs.latents, own)
    return float(of_generator), float(of_discriminator)


def _check_data(game: Game, data: Tensor) -> None:
    if not isinstance(data, Tensor):
        raise TypeError(f"data must be a torch tensor (N, *instance_shape), got {type(data).__name__}")
    if data.ndim == 0 or len(data) == 0:
        raise ValueError(f"data must hold at least one row, got shape {tuple(data.shape)}")
    if data.dtype != game.dtype:
        raise TypeError(
            f"the data is {str(data.dtype).removeprefix('torch.')}, but the players' parameters are "
            f"{str(game.dtype).removeprefix('torch.')}: convert one of them"
        )
    if not data.isfinite().all():
        row = int((~data.isfinite()).reshape(len(data), -1).any(-1).nonzero()[0])
        raise ValueError(f"data contains NaN or infinity, first in row {row}: remove or repair such rows")


def _check_fit(trace: Trace) -> None:
    """One step's batch through both modules: do latents, generated rows, data and logits fit together?"""
    inputs = trace.inputs(0)
    if inputs.latents.dtype != trace.data.dtype:
        raise TypeError(f"the latents are {inputs.latents.dtype}, but the data is {trace.data.dtype}: convert one")
    players = trace.players()
    buffers = [buffer.clone() for player in trace.game.players for buffer in player.module.buffers()]
    with torch.no_grad():
        try:
            generated = players.generate(inputs.latents)
        except RuntimeError as error:
            raise ValueError(
                f"the generator does not accept latents of shape {tuple(inputs.latents.shape)}: {error}"
            ) from error
        if not torch.equal(generated, players.generate(inputs.latents)):
            raise ValueError(
                "the generator makes different rows of the same latents at each call: it has randomness of its own, "
                "which no replay can repeat; put it in eval() mode, or make the noise part of the latents"
            )
        instance = tuple(trace.data.shape[1:])
        if tuple(generated.shape) != (len(inputs.latents), *instance):
            raise ValueError(
                f"the generator makes rows of shape {tuple(generated.shape[1:])} "
                f"(output {tuple(generated.shape)} for {len(inputs.latents)} latents), "
                f"but the data's rows have shape {instance}"
            )
        try:
            together = players.discriminate(inputs.rows)
        except RuntimeError as error:
            raise ValueError(f"the discriminator does not accept rows of shape {instance}: {error}") from error
        seen = {
            "alone": players.discriminate(inputs.rows[:1]),
            "in the batch reversed": players.discriminate(inputs.rows.flip(0)).flip(0),
        }
    after = [
        (player.role, name, buffer) for player in trace.game.players for name, buffer in player.module.named_buffers()
    ]
    for before, (role, name, buffer) in zip(buffers, after, strict=True):
        if not torch.equal(before, buffer):
            raise ValueError(
                f"the {role} changes its buffer {name!r} at every call, so no step can be replayed: call .eval()"
            )
    tolerance = 1e3 * torch.finfo(together.dtype).eps
    for how, logits in seen.items():
        different = ~torch.isclose(logits, together[: len(logits)], rtol=tolerance, atol=tolerance)
        if different.any():
            row = int(different.nonzero()[0])
            raise ValueError(
                f"the discriminator gives row {row} of its batch the logit {float(together[row]):.6g}, "
                f"but {float(logits[row]):.6g} {how}: it uses batch statistics, or randomness of its own, "
                "and so has no per-row terms to score"
            )
