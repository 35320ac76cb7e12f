"""The folder that everything is written to."""

from __future__ import annotations

from pathlib import Path

import torch

from gan_influence.tool.errors import InputError

__all__ = ["CHECKPOINTS", "opened", "same_threads", "swept"]

CHECKPOINTS = "checkpoints"
_RESULTS = (
    "scores.csv",
    "removed.txt",
    "harmful.png",
    "helpful.png",
    "generated.png",
    "generated-after.png",
    "summary.html",
    "generator.pt",
    "generator.safetensors",
    "players.pt",
    "players.safetensors",
)


def opened(out: Path) -> Path:
    """The folder, new, empty, or left by an earlier call. That the run is the same, its checkpoints know.

    Raises:
        InputError: it holds something else.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file: give a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / CHECKPOINTS).is_dir():
        found = sorted(path.name for path in out.iterdir())[0]
        raise InputError(f"--out {out} holds other files, such as {found}: give an empty or a new folder")
    (out / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    return out


def swept(out: Path) -> None:
    """Take out the results of an earlier call, so that none is left that this one does not stand for."""
    for name in _RESULTS:
        (out / name).unlink(missing_ok=True)


def same_threads(out: Path) -> None:
    """As many threads as the run began with: with another number sums round otherwise, and no replay would fit."""
    file = out / CHECKPOINTS / "threads"
    kept = file.read_text().strip() if file.exists() else ""
    if kept.isdigit():
        torch.set_num_threads(int(kept))
    else:  # a new folder, or killed while this was written, before the first step
        file.write_text(f"{torch.get_num_threads()}\n")
