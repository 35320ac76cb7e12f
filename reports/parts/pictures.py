"""What figures of single runs, rather than of cells, are drawn from."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gan_influence.datasets.pixels import as_images
from reports.summary import Summary

__all__ = ["as_text", "from_text", "sheet", "with_pictures"]


def with_pictures(summary: Summary, figure: Any) -> list[dict[str, Any]]:
    """The runs that have pictures; where none has, the figure says so."""
    runs = [run for run in summary.runs if "pictures" in run]
    if not runs:
        figure.text(0.5, 0.5, "no seed with pictures came through", ha="center")
    return runs


def as_text(images: Float[Tensor, "n colours h w"] | UInt8[Tensor, "n colours h w"]) -> dict[str, Any]:
    """Images in [-1, 1], or levels of them, as compressed bytes: ``(n, h, w)`` of one colour, or ``(n, h, w, 3)``."""
    levels = ((as_images(images.cpu(), torch.float32) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    pixels = levels.movedim(1, -1).squeeze(-1).contiguous().numpy()
    return {"shape": list(pixels.shape), "bytes": base64.b85encode(zlib.compress(pixels.tobytes(), 9)).decode()}


def from_text(text: dict[str, Any]) -> UInt8[np.ndarray, "n h w *colours"]:
    """The levels that :func:`as_text` wrote down."""
    return np.frombuffer(zlib.decompress(base64.b85decode(text["bytes"])), dtype=np.uint8).reshape(text["shape"])


def sheet(axes: Any, images: UInt8[np.ndarray, "n h w *colours"], marked: Sequence[bool] = ()) -> None:
    """Images in as many columns as rows, or one more; a frame around each of those marked."""
    across, size = int(np.ceil(np.sqrt(len(images)))), images.shape[1] + 1
    whole = np.full((-(-len(images) // across) * size, across * size, *images.shape[3:]), 127, dtype=np.uint8)
    for k, image in enumerate(images):
        top, left = (size * place for place in divmod(k, across))
        whole[top : top + size - 1, left : left + size - 1] = image
    axes.imshow(whole, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    for k, mark in enumerate(marked):
        if mark:
            top, left = divmod(k, across)
            axes.add_patch(_frame((left * size - 0.5, top * size - 0.5), size - 1))


def _frame(corner: tuple[float, float], size: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, size, size, fill=False, edgecolor="C1", linewidth=1.4)
