"""States kept of a run, in memory or in files: all of them, or every k-th, the others to be replayed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gan_influence import trees
from gan_influence.checks import check, is_whole
from gan_influence.state import State

__all__ = ["Checkpoint", "DamagedFileError", "Folder", "History", "check_same_run", "digest", "open_folder"]


@dataclass(frozen=True)
class Checkpoint:
    """``gi.train(..., memory=gi.Checkpoint(...))``: keep every k-th state, replay the segments between them.

    The reverse sweep then holds at most ``T / k + k`` states and takes one more training run of time; the scores are
    the same bits. ``memory="checkpoint"`` is ``Checkpoint()``.

    Args:
        every: k; by default the whole number next to sqrt(T), which needs the least memory, about 2 sqrt(T) states.
        folder: keep the states in files there instead of in memory. A run or a sweep that was killed goes on from
            its last file when it is started again.
        keep_graphs: keep the first-order pass of every replayed step until the sweep pulls it back, instead of
            computing it twice: the sweep then takes no more time than from full memory, and needs the activations
            of k steps of training besides.

    Raises:
        ValueError: ``every`` is no whole number >= 1.
    """

    every: int | None = None
    folder: str | os.PathLike | None = None
    keep_graphs: bool = False

    def __post_init__(self) -> None:
        holds = self.every is None or (is_whole(self.every) and self.every >= 1)
        check(holds, "every", "a number of steps >= 1, or None for about sqrt(T)", self.every)


def digest(*tensors: Tensor) -> str:
    """A fingerprint of the tensors' bits."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]


class DamagedFileError(ValueError):
    """A file is not what was written to it."""


class History:
    """States of the steps ``first ... last``: those at ``first + k * every``, and the last.

    Args:
        start: the state of step ``first``.
        first, last: steps.
        every: k.
        folder: where states are kept; in memory where it is ``None``. The first is always in memory.
    """

    def __init__(self, start: State, first: int, last: int, every: int, folder: Folder | None = None):
        self.first, self.last, self.every, self.folder = first, last, every, folder
        times = len(self.kept(first, last)) if folder is None else 1
        self._memory: State = trees.mapped(lambda part: part.new_empty(times, *part.shape), start)
        self._put(0, start)

    @property
    def states(self) -> State | None:
        """All states as one, each part with a leading dimension, where all are in memory."""
        return self._memory if self.every == 1 and self.folder is None else None

    def kept(self, start: int, stop: int) -> list[int]:
        """The steps from ``start`` to ``stop`` whose states are kept."""
        return [t for t in range(start, stop + 1) if (t - self.first) % self.every == 0 or t == self.last]

    def before(self, t: int) -> int:
        """The latest step up to ``t`` whose state is kept."""
        return t if t == self.last else t - (t - self.first) % self.every

    def keep(self, t: int, state: State) -> None:
        """Remember the state after ``t`` steps, if it is one of those to be kept."""
        if self.before(t) != t:
            return
        if self.folder is None:
            self._put(self._place(t), state)
        elif t != self.first:
            self.folder.write(f"state-{t:010d}.pt", trees.leaves(state))

    def load(self, t: int) -> State:
        """A kept state.

        Raises:
            DamagedFileError: its file is missing or damaged.
        """
        if self.folder is None or t == self.first:
            return self._memory.at(self._place(t))
        found = iter(self.folder.read(f"state-{t:010d}.pt"))
        return trees.mapped(lambda own: next(found).to(own), self._memory)

    def holds(self, t: int) -> bool:
        """Is there anything in the place of a kept state?"""
        return self.folder is None or t == self.first or (self.folder.path / f"state-{t:010d}.pt").exists()

    def _place(self, t: int) -> int:
        return -(-(t - self.first) // self.every)

    def _put(self, place: int, state: State) -> None:
        self._memory.moving[place] = state.moving
        for name, buffer in state.held.items():
            self._memory.held[name][place] = buffer


class Folder:
    """Tensors in files, each written in one step and checked when it is read."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)

    def write(self, name: str, content: Any) -> None:
        """Write what ``torch.save`` can write.

        Raises:
            OSError: the folder is full or cannot be written to; what is there already stays usable.
        """
        buffer = io.BytesIO()
        torch.save(content, buffer)
        self._write(name, hashlib.sha256(buffer.getbuffer()).digest() + buffer.getvalue())

    def read(self, name: str) -> Any:
        """What was written.

        Raises:
            DamagedFileError: the file is missing, truncated or changed.
        """
        try:
            content = (self.path / name).read_bytes()
        except OSError as error:
            raise DamagedFileError(f"{self.path / name} cannot be read: {error.strerror}") from error
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            raise DamagedFileError(f"{self.path / name} is damaged: its checksum is wrong")
        return torch.load(io.BytesIO(content[32:]), weights_only=True)

    def write_text(self, name: str, text: str) -> None:
        self._write(name, text.encode())

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def _write(self, name: str, content: bytes) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.path, prefix=f".{name}.")
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
                os.replace(temporary, self.path / name)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot write {name} to the folder {self.path}: {error.strerror}. Make room or give "
                "another folder; what was written before stays usable",
            ) from error


def open_folder(path: str | os.PathLike, fingerprint: dict[str, str]) -> Folder:
    """The folder of the run with this fingerprint: new, or left by the same run.

    Raises:
        ValueError: it holds another run's files; the message names the settings that differ.
        OSError: it cannot be written to.
    """
    folder = Folder(path)
    record = folder.path / "run.json"
    if record.exists():
        try:
            found = json.loads(record.read_text())
            if not isinstance(found, dict):
                raise ValueError("it holds no settings")
        except (OSError, ValueError) as error:
            raise ValueError(f"{record} is damaged ({error}): give another checkpoint folder, or empty it") from error
        check_same_run(
            f"the checkpoint folder {folder.path}", found, fingerprint, ". Give each run a folder of its own"
        )
    elif any(folder.path.glob("state-*.pt")):
        raise ValueError(f"{folder.path} holds checkpoints without their run.json: give another folder, or empty it")
    folder.write_text("run.json", json.dumps(fingerprint, indent=1) + "\n")
    return folder


def check_same_run(what: str, found: dict[str, str], fingerprint: dict[str, str], fix: str = "") -> None:
    """Is what was found there the fingerprint of this run?

    Raises:
        ValueError: it is not; the message names the settings that differ, with both values.
    """
    different = [f"{key} was {found.get(key)}, is {own}" for key, own in fingerprint.items() if found.get(key) != own]
    if different:
        raise ValueError(f"{what} holds another run, which differs in {'; '.join(different)}{fix}")
