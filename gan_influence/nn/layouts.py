"""In which order images lie in memory, for the operations that are faster in one than in another."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["channels_first", "channels_go_last", "channels_last", "dense", "laid_out", "like", "to_images", "to_pixels"]


def channels_go_last(images: Tensor) -> bool:
    """Does torch convolve such images faster with their channels last? Up to five times on a CPU, in float32."""
    return images.device.type == "cpu" and images.dtype == torch.float32


def laid_out(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """The same images, or kernels, in the memory layout in which they are convolved fastest."""
    return channels_last(images) if channels_go_last(images) else channels_first(images)


def channels_last(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Also by their strides, from which torch tells the layout and which a dimension of size 1 leaves open."""
    _, channels, height, width = images.shape
    strides = height * width * channels, 1, width * channels, channels
    if images.stride() == strides:
        return images
    return images.contiguous(memory_format=torch.channels_last).as_strided(images.shape, strides)


def channels_first(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Also by their strides: the fake tensors that steps are recorded with may report others where a size is 1."""
    _, channels, height, width = images.shape
    strides = channels * height * width, height * width, width, 1
    return images if images.stride() == strides else images.contiguous().as_strided(images.shape, strides)


def to_pixels(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n_h_w c"]:
    """One pixel a row."""
    return images.permute(0, 2, 3, 1).reshape(-1, images.shape[1])


def to_images(pixels: Float[Tensor, "n_h_w c"], like: torch.Size) -> Float[Tensor, "n c h w"]:
    """Rows of :func:`to_pixels` as images again, as many and as large as those of shape ``like``."""
    n, _, height, width = like
    return pixels.view(n, height, width, pixels.shape[1]).permute(0, 3, 1, 2)


def dense(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Images as torch normalises them: without gaps in memory, with their channels first, or on a CPU last."""
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return channels_last(images) if last and images.device.type == "cpu" else images.contiguous()


def like(dense: Float[Tensor, "n c h w"], images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Images in the layout of the dense ones."""
    layout = torch.contiguous_format if dense.is_contiguous() else torch.channels_last
    return images.contiguous(memory_format=layout)
