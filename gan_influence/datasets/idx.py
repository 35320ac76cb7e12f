"""IDX files, as MNIST is published: a magic number, the dimensions, then one byte a value.

All numbers of the header are big-endian and four bytes long. The magic number is 0x0800 plus the number of dimensions:
0x803 for images ``(n, height, width)``, 0x801 for labels ``(n,)``. A file may be gzipped.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

__all__ = ["read_idx"]

_MAGIC = {"images": 0x803, "labels": 0x801}
_GZIPPED = b"\x1f\x8b"


def read_idx(path: Path, kind: Literal["images", "labels"]) -> UInt8[np.ndarray, "n *shape"]:
    """The images ``(n, height, width)`` or labels ``(n,)`` of a file, gzipped or not, whatever it is called.

    Raises:
        ValueError: it is damaged, longer or shorter than its header says, empty, or holds something else.
    """
    content = _unzipped(path)
    magic, dimensions = _MAGIC[kind], _MAGIC[kind] & 0xFF
    start, found = 4 + 4 * dimensions, int.from_bytes(content[:4], "big")
    if len(content) >= 4 and found != magic:
        raise ValueError(f"{path} {_mistaken(found)}, expected {kind} (magic number {magic:#x})")
    if len(content) < start:
        raise ValueError(
            f"{path} is damaged: it holds {len(content)} bytes, but its header alone has {start}: copy it anew"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if shape[0] == 0:
        raise ValueError(f"{path} holds no {kind}: its header says so")
    expected, length = math.prod(shape), len(content) - start
    if length != expected:
        raise ValueError(
            f"{path} is damaged: its header announces {' x '.join(map(str, shape))} = {expected} bytes of {kind}, "
            f"but {length} follow: copy it anew"
        )
    return np.frombuffer(content, np.uint8)[start:].reshape(shape)


def _unzipped(path: Path) -> bytes:
    content = path.read_bytes()
    if not content.startswith(_GZIPPED):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}): copy it anew") from error


def _mistaken(magic: int) -> str:
    for kind, number in _MAGIC.items():
        if magic == number:
            return f"holds {kind} (magic number {magic:#x}), as if the files of images and labels were swapped"
    return f"is no IDX file of bytes: it begins with {magic:#010x}"
