"""The (A)SGD loop: ``theta^(t+1) = update(theta^(t), v_w(theta^(t)))``."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from gan_influence.admission import check_data, check_end, check_start
from gan_influence.checkpoint import (
    Checkpoint,
    DamagedFileError,
    History,
    open_folder,
)
from gan_influence.checks import is_whole
from gan_influence.devices import check_device
from gan_influence.game import Game, Rows, first_rows
from gan_influence.identity import fingerprint
from gan_influence.optim import Optimizer, Updates
from gan_influence.progress import shown
from gan_influence.schedule import Minibatches, Schedule
from gan_influence.steps import states
from gan_influence.surroundings import undisturbed
from gan_influence.trace import Trace

__all__ = ["check_removal", "retrain", "train"]

_LOW_PRECISION = (
    "the players are {}: one row's influence can be smaller than a parameter's or a metric's last digit, and scores "
    "come out well-formed all the same. Train in float32 or float64, or check them: gi.validate(trace, metric, scores)"
)


@undisturbed
def train(
    game: Game,
    data: Rows,
    schedule: Schedule,
    steps: int,
    optimizer: Optimizer | tuple[Optimizer, Optimizer],
    *,
    update: str = "simultaneous",
    ema_decay: float | None = None,
    memory: str | Checkpoint = "full",
    weights: Float[Tensor, " N"] | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Trace:
    """Train the players (TNNLS eq. 3, ICLR eq. 3) from the modules' current parameters, and remember every step.

    Args:
        game: what each player minimises. Its modules are copied, never changed.
        data: the training rows ``(N, *instance_shape)``, in the players' data type; in a one-player game the pair
            ``(inputs, targets)``.
        schedule: the batch of every step, such as ``FullBatch(latents)`` or ``Minibatches(...)``.
        steps: ``T >= 0``.
        optimizer: one for both players, or ``(for_generator, for_discriminator)``.
        update: ``"simultaneous"``: both players move from the same state; ``"alternating"``: within a step the
            discriminator moves first and the generator sees it moved (TNNLS VI-C, StyleGAN); ``"turns"``: a step moves
            one player, the discriminator at even t, the generator at odd t (ICLR Appendix A).
        ema_decay: d in [0, 1): metrics see the average of the generator, ``a <- d a + (1 - d) phi`` after each step,
            from the initial parameters on.
        memory: ``"full"`` keeps every state; ``"checkpoint"`` about sqrt(T) of them and replays the others; or a
            :class:`gan_influence.Checkpoint`, which can keep them in files, from where a killed run goes on.
        weights: a weight per row, 1 by default; 0 trains without the row, the denominator unchanged (TNNLS eq. 6).
        device: where to train; by default where ``data`` is.
        progress: show a progress bar.

    Warns:
        RuntimeWarning: the players have fewer digits than float32: see :func:`gan_influence.validate`.

    Raises:
        TypeError: data, latents and players differ in data type, or something given is of the wrong kind.
        ValueError: empty or non-finite data, shapes that do not fit the modules, a negative number of steps, an
            unknown ``update`` or ``memory``, a decay out of range, a folder that holds another run, a device that is
            not there.
        OSError: the checkpoint folder is full or cannot be written to.
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
    checkpoint = _check_memory(memory)
    check_data(game, data)
    if torch.finfo(game.dtype).bits < 32:
        warnings.warn(_LOW_PRECISION.format(str(game.dtype).removeprefix("torch.")), RuntimeWarning, stacklevel=3)
    inputs = first_rows(data)
    schedule = _fitted(schedule, inputs)
    home = check_device(device) if device is not None else inputs.device
    given, game = game, game.snapshot(home)
    updates = Updates(optimizer, game, update, ema_decay)
    data = tuple(_copied(part, home) for part in data) if isinstance(data, tuple) else _copied(data, home)
    weights = torch.ones(len(inputs)) if weights is None else torch.as_tensor(weights).detach().clone()
    weights = weights.to(home, inputs.dtype)
    if weights.shape != (len(inputs),) or not weights.isfinite().all():
        raise ValueError(f"weights must be {len(inputs)} finite numbers, one a row, got shape {tuple(weights.shape)}")
    start = updates.start(game.theta().to(home))
    begun = Trace(game, data, schedule, updates, weights, History(start, 0, 0, 1))
    check_start(begun, given)
    trace, before = _extend(begun, steps, checkpoint, progress)
    if before is not None:
        check_end(trace, before)
    return trace


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
        removed: row indices. Their weight becomes 0; the denominators stay (TNNLS eq. 6).
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
    begun = replace(trace, weights=weights, history=history, keep_graphs=False, _segment={})
    return _extend(begun, trace.steps - start, checkpoint, progress)[0]


def check_removal(removed: Iterable[int], n_rows: int, name: str) -> list[int]:
    """``removed`` as a list of distinct row indices in range.

    Raises:
        TypeError: not a collection of integers.
        IndexError: an index is outside ``0 ... n_rows - 1``.
        ValueError: an index is there twice.
    """
    if isinstance(removed, str) or not isinstance(removed, Iterable):
        raise TypeError(f"{name} must be a list of row indices, got {removed!r}")
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


def _extend(begun: Trace, steps: int, checkpoint: Checkpoint, progress: bool) -> tuple[Trace, Tensor | None]:
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
        before, state = state, following
    return trace, before


def _resume(history: History) -> tuple[int, Float[Tensor, "rows d"]]:
    """The latest step up to which all kept states are there, and its state."""
    reached, state = history.first, history.load(history.first)
    for t in history.kept(history.first + 1, history.last) if history.folder is not None else []:
        try:
            found = history.load(t)
        except DamagedFileError as error:
            if history.holds(t):
                warnings.warn(f"{error}: training goes on from step {reached}", RuntimeWarning, stacklevel=4)
            break
        if not found.isfinite().all():  # left by a run that diverged: it is to say again where
            break
        reached, state = t, found
    return reached, state


def _check_memory(memory: str | Checkpoint) -> Checkpoint:
    if isinstance(memory, Checkpoint):
        return memory
    if memory not in ("full", "checkpoint"):
        raise ValueError(f'memory must be "full", "checkpoint" or a gi.Checkpoint(...), got {memory!r}')
    return Checkpoint(every=1) if memory == "full" else Checkpoint()


def _fitted(schedule: Schedule, inputs: Tensor) -> Schedule:
    """Minibatches of this data, with latents of its type."""
    if not isinstance(schedule, Minibatches):
        return schedule
    if schedule.size != len(inputs):
        raise ValueError(f"the schedule is made for {schedule.size} rows, but the data has {len(inputs)}")
    return schedule if schedule.dtype is not None else replace(schedule, dtype=inputs.dtype)


def _copied(part: Tensor, home: torch.device) -> Tensor:
    return part.detach().to(home, copy=True)
