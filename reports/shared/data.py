"""The data folder and files of one's own: named on the command line or in the environment, checked before any work."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from gan_influence.datasets.images import image_files

__all__ = [
    "CHECKPOINT",
    "FEATURES",
    "IMAGES",
    "OPTIONS",
    "VARIABLE",
    "ensure_files",
    "file_digest",
    "located",
    "use_data_folder",
    "use_file",
]

VARIABLE = "GAN_INFLUENCE_DATA"
CHECKPOINT, FEATURES, IMAGES = "stylegan/checkpoint.pt", "stylegan/features.pt", "stylegan/images"
OPTIONS = {CHECKPOINT: "checkpoint", FEATURES: "features"}  # that name a file elsewhere than in the data folder


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


def use_file(file: str, path: str | Path | None) -> None:
    """Let ``path`` be this file of :data:`OPTIONS`, as :func:`use_data_folder` does; ``None`` leaves what is named.

    Raises:
        SystemExit: it is no file.
    """
    if path is None:
        return
    if not Path(path).is_file():
        raise SystemExit(f"--{OPTIONS[file]} {path}: there is no such file")
    os.environ[_variable(file)] = str(Path(path).resolve())


def _variable(file: str) -> str:
    return f"GAN_INFLUENCE_{OPTIONS[file].upper()}"


def located(file: str) -> Path | None:
    """Where a file or folder of the data folder is; ``None`` where nothing names it.

    What has an option is where that says. Images are in :data:`IMAGES`, or, without such a folder, in the data folder
    itself.
    """
    if file in OPTIONS and (named := os.environ.get(_variable(file))):
        return Path(named)
    folder = os.environ.get(VARIABLE)
    if not folder:
        return None
    path = Path(folder) / file
    return Path(folder) if file == IMAGES and not path.is_dir() else path


def file_digest(path: Path) -> str:
    """The first digits of a file's SHA-256; of a folder, of its images' names and digests.

    Raises:
        FileNotFoundError: a folder holds no image.
    """
    if path.is_dir():
        images = "".join(f"{one.name} {file_digest(one)} " for one in image_files(path))
        return hashlib.sha256(images.encode()).hexdigest()[:12]
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def ensure_files(files: Sequence[str], purpose: str, otherwise: str = "choose another preset") -> None:
    """Check that these files are there.

    Raises:
        SystemExit: no folder is named, or it lacks some of them; the message names every way to name one, and what to
            do ``otherwise``.
    """
    missing = [file for file in files if (path := located(file)) is None or not path.exists()]
    if missing:
        folder = os.environ.get(VARIABLE)
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        where = f"it is not in {folder}" if folder else "no data folder is named"
        own = [f"--{OPTIONS[file]} FILE" for file in missing if file in OPTIONS]
        alone = f", or {' and '.join(own)} by {'itself' if len(own) == 1 else 'themselves'}," if own else ""
        raise SystemExit(
            f"{purpose} needs {missing[0]}{others}, and {where}. Name the folder that holds them with --data DIR or in "
            f"the environment variable {VARIABLE}{alone} or {otherwise}"
        )
