"""Files from a mirror, checked before they are put in place."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path

__all__ = ["fetch", "is_intact"]

_TIMEOUT = 30.0  # seconds without an answer


def is_intact(path: Path, sha256: str) -> bool:
    """The file is there and has this SHA-256, in hexadecimal digits."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def fetch(target: Path, mirrors: Sequence[str], sha256: str) -> None:
    """Put the file of that name, from the first mirror that sends it unspoilt, in place: whole or not at all.

    Args:
        target: the file to be made; its folder is made too.
        mirrors: addresses to which the file's name is appended.
        sha256: of the file, in hexadecimal digits.

    Raises:
        OSError: no mirror sends it, each with its reason; or the folder cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    for mirror in mirrors:
        address = mirror + target.name
        try:
            with urllib.request.urlopen(address, timeout=_TIMEOUT) as response:
                content = response.read()
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{address}: {error}")
            continue
        received = hashlib.sha256(content).hexdigest()
        if received == sha256:
            _put(target, content)
            return
        failures.append(f"{address}: {len(content)} bytes with SHA-256 {received}, expected {sha256}")
    raise OSError("; ".join(failures))


def _put(target: Path, content: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
        try:
            file.write(content)
            file.close()  # renamed while open, it could be seen before its last bytes are written
            os.replace(file.name, target)
        except BaseException:
            os.unlink(file.name)
            raise
