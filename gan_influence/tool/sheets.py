"""Contact sheets: pictures side by side, with a line below each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

__all__ = ["save_sheet"]

_COLUMNS = 10
_SIDE = 96
_GAP = 8
_LINE = 14


def save_sheet(path: Path, images: Float[Tensor, "n colours height width"], captions: Sequence[Sequence[str]]) -> None:
    """Write the images, in [-1, 1], with the lines of text that belong to each.

    Raises:
        ImportError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise ImportError('contact sheets need Pillow: pip install "gan-influence[images]"') from error
    lines = max((len(caption) for caption in captions), default=0)
    wide, high = _SIDE + _GAP, _SIDE + _GAP + lines * _LINE
    columns = min(_COLUMNS, len(images))
    sheet = Image.new("RGB", (columns * wide + _GAP, -(-len(images) // columns) * high + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for k, image in enumerate(images):
        x, y = _GAP + k % columns * wide, _GAP + k // columns * high
        sheet.paste(_picture(Image, image), (x, y))
        for line, text in enumerate(captions[k] if captions else ()):
            draw.text((x, y + _SIDE + 1 + line * _LINE), _fitted(text, draw, font), fill="#333", font=font)
    sheet.save(path, optimize=True)


def _picture(module: Any, image: Float[Tensor, "colours height width"]) -> Any:
    """A square of ``_SIDE`` pixels: few pixels are shown as such, many are averaged."""
    levels = ((image.detach().cpu().float().clamp(-1, 1) + 1) * 127.5).round().byte().numpy()
    picture = module.fromarray(levels[0] if len(levels) == 1 else np.moveaxis(levels, 0, -1)).convert("RGB")
    how = module.Resampling.NEAREST if max(picture.size) <= _SIDE else module.Resampling.LANCZOS
    return picture.resize((_SIDE, _SIDE), how)


def _fitted(text: str, draw: Any, font: Any) -> str:
    """The end of a text that is too long, which tells files of one folder apart."""
    if draw.textlength(text, font=font) <= _SIDE:
        return text
    while text and draw.textlength("…" + text, font=font) > _SIDE:
        text = text[1:]
    return "…" + text
