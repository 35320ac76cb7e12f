"""Where data files are looked for: the caller's folder, or the one that GAN_INFLUENCE_DATA names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["VARIABLE", "existing", "given_folder"]

VARIABLE = "GAN_INFLUENCE_DATA"


def given_folder(folder: str | os.PathLike[str] | None) -> Path | None:
    """``folder``, or else the one that the variable names, or else None."""
    if folder is None:
        folder = os.environ.get(VARIABLE) or None
    return None if folder is None else Path(folder)


def existing(folder: Path, relative: Path, rows: str, instead: str, suffixes: Sequence[str] = ("",)) -> Path:
    """The first of ``folder / relative``, with each of the suffixes, that is there.

    Args:
        folder: as :func:`given_folder` returns it.
        relative: of the file, without suffix.
        rows: what the file holds, in the plural.
        instead: what else the caller may do, for the message.
        suffixes: to append to the file's name.

    Raises:
        FileNotFoundError: none is there; it names the outermost thing that is missing.
    """
    path = folder / relative
    paths = [path.with_name(path.name + suffix) for suffix in suffixes]
    if found := next((candidate for candidate in paths if candidate.is_file()), None):
        return found
    missing = next((part for part in (folder, path.parent) if not part.is_dir()), path)
    raise FileNotFoundError(
        f"{missing} is not there: the {rows} are expected in {' or '.join(map(str, paths))}, below folder= or the "
        f"folder that {VARIABLE} names; {instead}"
    )
