"""A finished run in a file, without code: the game is given again when it is read, and must be the same."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gan_influence import trees
from gan_influence.admission import check_data
from gan_influence.game import Game
from gan_influence.history import Folder, History, check_same_run
from gan_influence.identity import fingerprint
from gan_influence.running_statistics import Recompute
from gan_influence.state import State
from gan_influence.surroundings import undisturbed
from gan_influence.trace import Trace
from gan_influence.training import begin
from gan_influence.trees import Tree
from gan_influence.updates import Cycle, Decay, Optimizers

__all__ = ["load_trace", "save"]


def save(trace: Trace, path: str | os.PathLike) -> None:
    """See :meth:`gan_influence.Trace.save`."""
    history, players = trace.history, trace.game.players
    kept = history.kept(history.first, history.last)
    content = {
        "first": history.first,
        "last": history.last,
        "every": history.every,
        "states": [tuple(history.load(t)) for t in kept],
        "weights": trace.weights,
        "losses": trace.losses,
        "keep_graphs": trace.keep_graphs,
        "held": {name: player.held for name, player in players.items()},
        "writes_inputs": {name: player.writes_inputs for name, player in players.items()},
        "seeing": sorted(trace.game.seeing),
        "fingerprint": fingerprint(trace, history.last, history.every),
    }
    where = Path(path)
    Folder(where.parent).write(where.name, content)


@undisturbed
def load_trace(
    path: str | os.PathLike,
    game: Game,
    data: Tree,
    schedule: Any,
    optimizer: Optimizers,
    *,
    update: Cycle = "simultaneous",
    ema_decay: Decay | dict[str, Decay] | None = None,
    average_buffers: str | Recompute | None = None,
    device: torch.device | str | None = None,
) -> Trace:
    """A run that :meth:`gan_influence.Trace.save` has written, to be scored and retrained as the run itself.

    Args:
        path: the file.
        game, data, schedule, optimizer, update, ema_decay, average_buffers, device: as :func:`gan_influence.train` was
            given them. The parameters that the game's modules hold do not matter: the run's own come from the file.

    Raises:
        ValueError: they are not those of the run; the message names the settings that differ, with both values.
        DamagedFileError: the file is missing, truncated or changed.
    """
    check_data(game, data)
    where = Path(path)
    found = Folder(where.parent).read(where.name)
    begun, _ = begin(game, data, schedule, optimizer, update, ema_decay, average_buffers, None, None, device)
    for name, player in begun.game.players.items():
        player.held = tuple(found["held"].get(name, ()))
        player.writes_inputs = bool(found["writes_inputs"].get(name, False))
    begun.game.seeing = frozenset(found["seeing"])
    home = begun.weights.device
    states = [trees.mapped(lambda part: part.to(home), State(*kept)) for kept in found["states"]]
    first, last, every = found["first"], found["last"], found["every"]
    history = History(states[0], first, last, every)
    try:
        for t, state in zip(history.kept(first, last), states, strict=True):
            history.keep(t, state)
        trace = replace(begun, history=history, weights=found["weights"].to(begun.weights))
        own = fingerprint(trace, last, every)
    except RuntimeError as error:
        raise ValueError(f"{where} holds a run of another game: {error}") from error
    check_same_run(str(where), found["fingerprint"], own)
    return replace(trace, losses=found["losses"], keep_graphs=found["keep_graphs"])
