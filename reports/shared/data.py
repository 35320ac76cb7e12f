"""The data folder: named on the command line or in the environment, checked before any work starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["VARIABLE", "ensure_files", "use_data_folder"]

VARIABLE = "GAN_INFLUENCE_DATA"


def use_data_folder(folder: str | Path | None) -> None:
    """Make ``folder`` the data folder of this process and of those it starts; ``None`` leaves the environment's.

    Raises:
        SystemExit: it is no folder.
    """
    if folder is None:
        return
    folder = Path(folder)
    if not folder.is_dir():
        raise SystemExit(f"--data {folder}: there is no such folder")
    os.environ[VARIABLE] = str(folder.resolve())


def ensure_files(files: Sequence[str], purpose: str, otherwise: str = "choose another preset") -> None:
    """Check that the data folder holds these files.

    Raises:
        SystemExit: no folder is named, or it lacks some of them; the message names both ways to name one, and what to
            do ``otherwise``.
    """
    if not files:
        return
    folder = os.environ.get(VARIABLE)
    missing = [file for file in files if folder is None or not (Path(folder) / file).is_file()]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        where = "no data folder is named" if folder is None else f"it is not in {folder}"
        raise SystemExit(
            f"{purpose} needs {missing[0]}{others}, and {where}. Name the folder that holds them with --data DIR or in "
            f"the environment variable {VARIABLE}, or {otherwise}"
        )
