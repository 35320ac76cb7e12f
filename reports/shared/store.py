"""Results on disk: written atomically, read with suspicion, never overwritten unread."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from gan_influence.history import DamagedFileError

__all__ = [
    "ForeignResultError",
    "alone_in",
    "ensure_writable",
    "read_json",
    "read_sealed",
    "set_aside",
    "usable",
    "write_json",
    "write_sealed",
    "write_text",
]


Stored = TypeVar("Stored")


class ForeignResultError(ValueError):
    """A file is there, but it is not what this program wrote for these settings."""


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` in one step: whoever reads it, or is killed, sees the old content or the new, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically; NaN and infinity are refused, since JSON has neither."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically with a checksum of its content."""
    write_json(path, {**content, "checksum": _checksum(content)})


def read_sealed(path: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """The content that :func:`write_sealed` wrote, if it has these entries.

    Raises:
        ForeignResultError: unreadable, truncated, changed, or of something else; the message says which.
    """
    content = read_json(path, expected)
    told = content.pop("checksum", None)
    if told != _checksum(content):
        raise ForeignResultError("it is damaged: its checksum is wrong")
    return content


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()[:16]


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Other processes that ask for the same folder wait."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def read_json(path: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """The file's content, if it is an object with these entries.

    Raises:
        ForeignResultError: unreadable, truncated, or of something else; the message says which.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ForeignResultError(f"it cannot be read ({error})") from error
    except json.JSONDecodeError as error:
        raise ForeignResultError(f"it is not complete JSON ({error})") from error
    if not isinstance(content, dict):
        raise ForeignResultError("it is not a result of this program")
    for key, value in expected.items():
        if content.get(key) != value:
            raise ForeignResultError(f"its {key!r} is {content.get(key)!r}, not {value!r}")
    return content


def set_aside(path: Path) -> Path:
    """Move the file to the first free ``NAME.set-aside-K``, and return that path."""
    number = 1
    while (aside := path.with_name(f"{path.name}.set-aside-{number}")).exists():
        number += 1
    path.rename(aside)
    return aside


def usable(path: Path, read: Callable[[Path], Stored], instead: str) -> Stored | None:
    """What ``read`` finds in the file; ``None`` where there is none.

    A damaged file is named and set aside, to be made anew: ``instead`` says how, after "and".
    """
    if not path.exists():
        return None
    try:
        return read(path)
    except DamagedFileError as error:
        tqdm.write(f"{path} cannot be used: {error}. It was set aside as {set_aside(path)}, and {instead}")
        return None


def ensure_writable(folder: Path) -> None:
    """Create ``folder`` and try to write into it.

    Raises:
        SystemExit: it cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SystemExit(
            f"cannot write to {folder}: {error.strerror or error}. Choose another folder with --out"
        ) from error
