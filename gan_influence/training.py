"""The (A)SGD loop: ``theta^(t+1) = update(theta^(t), v_w(theta^(t)))``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from gan_influence import trees
from gan_influence.admission import check_data, check_end, check_start, constant_buffers
from gan_influence.batch import Batch
from gan_influence.checks import check, check_whole, is_whole
from gan_influence.devices import check_device
from gan_influence.game import Game
from gan_influence.history import Checkpoint, DamagedFileError, History, open_folder
from gan_influence.identity import fingerprint
from gan_influence.progress import shown
from gan_influence.running_statistics import Recompute, norms
from gan_influence.schedules import Minibatches, RecordedBatches, Schedule
from gan_influence.state import Start, State
from gan_influence.step import states
from gan_influence.surroundings import undisturbed, warn
from gan_influence.trace import Trace
from gan_influence.trees import Tree
from gan_influence.updates import Cycle, Decay, Optimizers, Updates

__all__ = ["check_removal", "retrain", "train"]

_LOW_PRECISION = (
    "the players are {}: one row's influence can be smaller than a parameter's or a metric's last digit, and scores "
    "come out well-formed all the same. Train in float32 or float64, or check them: gi.validate(trace, metric, scores)"
)


@undisturbed
def train(
    game: Game,
    data: Tree,
    schedule: Schedule | Sequence[Batch],
    steps: int,
    optimizer: Optimizers,
    *,
    update: Cycle = "simultaneous",
    ema_decay: Decay | Mapping[str, Decay] | None = None,
    average_buffers: str | Recompute | None = None,
    start: Start | None = None,
    memory: str | Checkpoint = "full",
    weights: Float[Tensor, " N"] | None = None,
    record: int | None = None,
    callback: Callable[[int, State], object] | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Trace:
    """Train the players (TNNLS eq. 3, ICLR eq. 3) from the modules' current parameters, and remember every step.

    Args:
        game: what each player minimises. Its modules are copied, never changed.
        data: the training rows, a tensor ``(N, *instance_shape)`` or a tree of them, of any type; floating-point ones
            in the players'. In a one-player game of the short form the pair ``(inputs, targets)``.
        schedule: the batch of every step, such as ``FullBatch(latents)`` or ``Minibatches(...)``; or a list of batches.
        steps: how many, ``T >= 0``.
        optimizer: one for all players, ``{player: optimiser}``, or of a GAN ``(for_generator, for_discriminator)``.
        update: ``"simultaneous"``: all move from the same state; ``"alternating"``: within a step one after another, of
            a GAN the discriminator first, and the generator sees it moved (TNNLS VI-C, StyleGAN); ``"turns"``: a step
            moves one player, the discriminator at even t, the generator at odd t (ICLR Appendix A); or a cycle of
            players, ``["discriminator"] * 5 + ["generator"]``, of which step t moves entry t mod 6. An entry may be
            several players, which move from the same state. In a cycle, epochs of ``Minibatches`` count the steps alone
            that look at rows.
        ema_decay: d in [0, 1), or a function of t: metrics see the average of the generator,
            ``a <- d a + (1 - d) phi`` after each step, from the initial parameters on. ``{player: d}`` averages others.
        average_buffers: of an averaged player metrics see running statistics and the like: ``"copy"``, those that
            training has reached; ``"average"``, averaged as the parameters are; or ``gi.Recompute(latents)``, made anew
            from the parameters that are seen, and then scores leave nothing out. Where a metric looks at BatchNorm in
            eval mode and nothing was said, ``"copy"`` with a warning.
        start: what the run goes on from besides the modules' parameters and buffers: optimisers' states of ``torch``,
            an average, how many steps were done. Steps are then those still to do.
        memory: ``"full"`` keeps every state; ``"checkpoint"`` about sqrt(T) of them and replays the others; or a
            :class:`gan_influence.Checkpoint`, which can keep them in files, from where a killed run goes on.
        weights: a weight per row, 1 by default; 0 trains without the row, the denominator unchanged (TNNLS eq. 6).
        record: keep all players' costs at every so many steps in ``trace.losses``; each takes a forward pass.
        callback: called after each step as ``callback(t, state)``, t steps being done. What it does to the state's
            tensors would be part of the run, but not of its replay: it should look only.
        device: where to train; by default where ``data`` is.
        progress: show a progress bar.

    Warns:
        RuntimeWarning: the players have fewer digits than float32: see :func:`gan_influence.validate`.

    Raises:
        TypeError: data, latents and players differ in data type, or something given is of the wrong kind.
        ValueError: empty or non-finite data, shapes that do not fit the modules, a negative number of steps, an
            unknown ``update`` or ``memory``, a decay out of range, a start that does not fit, a folder that holds
            another run, a device that is not there.
        OSError: the checkpoint folder is full or cannot be written to.
        DivergenceError: parameters stopped being finite; the message names the step, the player and the last losses.
    """
    check_whole("steps", steps, 0)
    holds = record is None or (is_whole(record) and record >= 1)
    check(holds, "record", "a number of steps >= 1, or None", record)
    checkpoint = _check_memory(memory)
    begun, given = begin(game, data, schedule, optimizer, update, ema_decay, average_buffers, start, weights, device)
    begun.updates.check_rates(begun.first + steps)
    begun = admitted(begun, given)
    losses: dict[str, list[Tensor]] = {}

    def watch(t: int, before: State, after: State) -> None:
        if record is not None and t % record == 0:
            _record(begun, t, before, losses)
        if callback is not None:
            callback(t + 1, after)

    constants = constant_buffers(begun.game)
    trace, before = _extend(begun, steps, checkpoint, progress, watch)
    if before is not None:
        check_end(trace, before, constants)
    return replace(trace, losses={name: torch.stack(values) for name, values in losses.items()})


def begin(
    game: Game,
    data: Tree,
    schedule: Any,
    optimizer: Optimizers,
    update: Cycle,
    ema_decay: Any,
    average_buffers: str | Recompute | None,
    start: Start | None,
    weights: Tensor | None,
    device: torch.device | str | None,
) -> tuple[Trace, Game]:
    """A run before its first step, of a copy of the game; and the game as it was given."""
    if not isinstance(game, Game):
        raise TypeError(f"game must be a Game(generator, discriminator, loss=...), got {type(game).__name__}")
    if isinstance(schedule, list | tuple):
        schedule = RecordedBatches(schedule)
    if not callable(schedule):
        raise TypeError(
            "schedule must give the batch of step t as schedule(t), such as FullBatch(latents), "
            f"got {type(schedule).__name__}"
        )
    if start is not None and not isinstance(start, Start):
        raise TypeError(f"start must be a gi.Start(optimizer=..., average=..., step=...), got {type(start).__name__}")
    check_data(game, data)
    if torch.finfo(game.dtype).bits < 32:
        warn(_LOW_PRECISION.format(str(game.dtype).removeprefix("torch.")))
    size = trees.length(data)
    schedule = _fitted(schedule, size, game.dtype)
    home = check_device(device) if device is not None else trees.leaves(data)[0].device
    given, game = game, game.snapshot(home)
    if isinstance(average_buffers, Recompute):
        average_buffers = average_buffers.to(home)
    updates = Updates(optimizer, game, update, ema_decay, start, average_buffers)
    for name, player in game.players.items():
        player.averaged = name in updates.decays
        chosen = not isinstance(average_buffers, Recompute) or name == updates.recomputing
        player.statistics = average_buffers if chosen else None
    data = trees.mapped(lambda part: part.detach().to(home, copy=True), data)
    weights = torch.ones(size) if weights is None else torch.as_tensor(weights).detach().clone()
    weights = weights.to(home, game.dtype)
    if weights.shape != (size,) or not weights.isfinite().all():
        raise ValueError(f"weights must be {size} finite numbers, one a row, got shape {tuple(weights.shape)}")
    first = 0 if start is None else start.step
    state = State(updates.start(game.theta().to(home), game), {})
    return Trace(game, data, schedule, updates, weights, History(state, first, first, 1)), given


def admitted(begun: Trace, given: Game) -> Trace:
    """The run, looked at before it is trained, with the buffers that its calls change."""
    check_start(begun, given)
    held = begun.updates.held_at_start(begun.game.held())
    state = State(begun.state().moving, held)
    begun = replace(begun, history=History(state, begun.first, begun.first, 1), _segment={})
    _check_recomputing(begun)
    return begun


def _check_recomputing(begun: Trace) -> None:
    """Has the player running statistics that are to be made anew, and does it take these inputs?"""
    name = begun.updates.recomputing
    if name is None:
        return
    if not norms(begun.game.players[name].module):
        raise ValueError(f"average_buffers=gi.Recompute(...), but the {name} has no BatchNorm in training mode")
    try:
        begun.held()
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"the {name} cannot be called with gi.Recompute's inputs: {error}") from error


@undisturbed
def retrain(
    trace: Trace,
    removed: Iterable[int],
    last: int | None = None,
    *,
    memory: str | Checkpoint = "full",
    progress: bool = False,
) -> Trace:
    """Train once more without the rows ``removed``: counterfactual AGD (TNNLS eq. 7).

    Args:
        trace: the factual run; its initial state, batches and optimisers are used again.
        removed: row indices, or a mask of N booleans. Their weight becomes 0; the denominators stay (TNNLS eq. 6).
        last: retrain only that many final steps, from the factual state before them; by default all.
        memory: as in :func:`gan_influence.train`.
        progress: show a progress bar.

    Returns:
        A trace that starts at the first retrained step.

    Raises:
        IndexError, TypeError, ValueError: a removed row is out of range, no integer, or named twice.
    """
    checkpoint = _check_memory(memory)
    weights = trace.weights.clone()
    weights[check_removal(removed, trace.size, "removed")] = 0
    start = trace.window(last)
    history = History(trace.state(start), start, start, 1)
    begun = replace(trace, weights=weights, history=history, keep_graphs=False, losses={}, _segment={})
    return _extend(begun, trace.steps - start, checkpoint, progress)[0]


def check_removal(removed: Iterable[int], n_rows: int, name: str) -> list[int]:
    """``removed`` as a list of distinct row indices in range; a mask, a tensor or array of booleans, names its rows.

    Raises:
        TypeError: not a collection of integers.
        IndexError: an index is outside ``0 ... n_rows - 1``.
        ValueError: an index is there twice.
    """
    if isinstance(removed, str) or not isinstance(removed, Iterable):
        raise TypeError(f"{name} must be a list of row indices, got {removed!r}")
    if isinstance(removed, Tensor | np.ndarray) and removed.dtype in (torch.bool, np.bool_):
        if tuple(removed.shape) != (n_rows,):
            raise IndexError(f"{name} is a mask of shape {tuple(removed.shape)}, but the data has {n_rows} rows")
        return np.flatnonzero(removed.cpu() if isinstance(removed, Tensor) else removed).tolist()
    rows: dict[int, None] = {}  # a set in the order given
    for index in removed.tolist() if isinstance(removed, Tensor) else removed:
        row = index.item() if isinstance(index, Tensor | np.generic) else index
        if not is_whole(row):
            raise TypeError(f"{name} contains {row!r}, which is not a row index (an integer)")
        if not 0 <= row < n_rows:
            raise IndexError(f"{name} contains {row}, but the data has {n_rows} rows")
        if row in rows:
            raise ValueError(f"{name} contains {row} twice: a row can be removed only once")
        rows[row] = None
    return list(rows)


def _extend(
    begun: Trace,
    steps: int,
    checkpoint: Checkpoint,
    progress: bool,
    watch: Callable[[int, State, State], None] | None = None,
) -> tuple[Trace, State | None]:
    """Go on from the end of ``begun``, which holds one state; and the state before the last step, if one was taken."""
    first, last = begun.first, begun.first + steps
    every = checkpoint.every or max(round(math.sqrt(steps)), 1)
    folder = None
    if checkpoint.folder is not None:
        folder = open_folder(checkpoint.folder, fingerprint(begun, last, every))
    history = History(begun.state(), first, last, every, folder)
    trace = replace(begun, history=history, keep_graphs=checkpoint.keep_graphs)
    reached, state = _resume(history)
    before = None
    todo = tqdm(range(reached, last), desc="training", unit="step", disable=not shown(progress))
    for after, following in states(trace, state, trace.weights, todo):
        history.keep(after, following)
        if watch is not None:
            watch(after - 1, state, following)
        before, state = state, following
    return trace, before


def _record(trace: Trace, t: int, state: State, losses: dict[str, list[Tensor]]) -> None:
    """Keep what all players pay at step ``t``, from the state before it."""
    with torch.no_grad():
        costs, _ = trace.game.losses(state.moving[0], trace.inputs(t), state.held)
    for name, cost in {"step": torch.tensor(t), **costs}.items():
        losses.setdefault(name, []).append(cost)


def _resume(history: History) -> tuple[int, State]:
    """The latest step up to which all kept states are there, and its state."""
    reached, state = history.first, history.load(history.first)
    for t in history.kept(history.first + 1, history.last) if history.folder is not None else []:
        try:
            found = history.load(t)
        except DamagedFileError as error:
            if history.holds(t):
                warn(f"{error}: training goes on from step {reached}")
            break
        if not found.moving.isfinite().all():  # left by a run that diverged: it is to say again where
            break
        reached, state = t, found
    return reached, state


def _check_memory(memory: str | Checkpoint) -> Checkpoint:
    if isinstance(memory, Checkpoint):
        return memory
    if memory not in ("full", "checkpoint"):
        raise ValueError(f'memory must be "full", "checkpoint" or a gi.Checkpoint(...), got {memory!r}')
    return Checkpoint(every=1) if memory == "full" else Checkpoint()


def _fitted(schedule: Schedule, size: int, dtype: torch.dtype) -> Schedule:
    """Minibatches of this data, with latents of the players' type."""
    if not isinstance(schedule, Minibatches):
        return schedule
    if schedule.size != size:
        raise ValueError(f"the schedule is made for {schedule.size} rows, but the data has {size}")
    return schedule if schedule.dtype is not None else replace(schedule, dtype=dtype)
