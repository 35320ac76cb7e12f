"""The run: trained once, gone on from where it was interrupted."""

from __future__ import annotations

from pathlib import Path

from gan_influence.history import Checkpoint
from gan_influence.tool.arguments import Settings
from gan_influence.tool.problem import Problem, device_of
from gan_influence.trace import Trace
from gan_influence.training import train

__all__ = ["trained"]


def trained(problem: Problem, settings: Settings, folder: Path | None = None, steps: int | None = None) -> Trace:
    """Train, with checkpoints in the folder, from which a run that was killed goes on.

    Raises:
        ValueError: the folder holds another run; the message names what differs.
        DivergenceError: parameters stopped being finite.
    """
    return train(
        problem.game,
        problem.data,
        problem.schedule,
        problem.steps if steps is None else steps,
        problem.optimizer,
        **problem.options,
        memory="full" if folder is None else Checkpoint(folder=folder),
        device=device_of(settings.device),
        progress=folder is not None and not settings.quiet,
    )
