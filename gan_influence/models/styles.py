"""What StyleGAN and StyleGAN2 share: their sizes, and the latents with all that is random in a generator's call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from gan_influence.checks import check, check_whole, is_real, is_whole
from gan_influence.nn.styles import MappingNetwork, started

__all__ = ["StyleGenerator", "channels_of", "made", "resolutions", "style_latents"]

_SMALLEST, _LARGEST = 8, 1024


def resolutions(resolution: int) -> list[int]:
    """4, 8, ... up to the images'.

    Raises:
        ValueError: it is no power of two from 8 to 1024.
    """
    known = [2**k for k in range(3, 11)]
    check(is_whole(resolution) and resolution in known, "resolution", "a power of two from 8 to 1024", resolution)
    return [4, *(size for size in known if size <= resolution)]


def channels_of(channels: int | Mapping[int, int] | None, sizes: list[int], published: Mapping[int, int]) -> dict:
    """Channels at each resolution: the published ones, those up to a number, or those of a mapping.

    Raises:
        ValueError: a number below 1; a mapping without a resolution that is needed, or with another.
    """
    if channels is None:
        return {size: published[size] for size in sizes}
    if not isinstance(channels, Mapping):
        check_whole("channels", channels)
        return {size: min(int(channels), published[size]) for size in sizes}
    if sorted(channels) != sizes:
        raise ValueError(f"channels must name the resolutions {', '.join(map(str, sizes))}, got {sorted(channels)}")
    for size in sizes:
        check_whole(f"channels[{size}]", channels[size])
    return {size: int(channels[size]) for size in sizes}


def made(players: tuple[nn.Module, nn.Module], dtype: torch.dtype, seed: int) -> tuple:
    """Both players with fresh parameters of that type, rounded from the same draws for all types."""
    check(is_whole(seed) and 0 <= seed < 2**63, "seed", "a whole number from 0 to 2^63 - 1", seed)
    random = torch.Generator().manual_seed(int(seed))
    for player in players:
        started(player.float(), random)
    return tuple(player.to(dtype) for player in players)


class StyleGenerator(nn.Module):
    """How latents become styles and noise; what is made of them is :meth:`synthesis`.

    Attributes:
        style_size: numbers of a latent and of a style.
        layers: how many places of the synthesis take a style; mixing changes the style from one of them on.
        noise_sizes: pixels along either side of each map of noise.
    """

    style_size: int
    layers: int
    noise_sizes: tuple[int, ...]
    mapping: MappingNetwork

    def forward(self, latents: Any) -> Float[Tensor, "n colours size size"]:
        """Images of latents, with all that is random in them.

        Args:
            latents: ``{"z": ..., "crossover": ..., "noise": ...}``, or z alone. z is ``(n, style_size)``, or of two
                latents a row ``(n, 2, style_size)``; with crossover ``(n,)``, whole numbers, layers ``i > crossover``
                take their style from the second. Without it there is no mixing, and the first is taken. noise is a
                tuple of maps ``(n, 1, size, size)``, one for each of ``noise_sizes``; without it none is added.

        Raises:
            ValueError: there is no z; parts of another name or shape.
        """
        tree = {"z": latents} if isinstance(latents, Tensor) else latents
        if not isinstance(tree, Mapping) or "z" not in tree or set(tree) - {"z", "crossover", "noise"}:
            raise ValueError(
                "latents must be a tensor z, or a dict of z and, if wanted, crossover and noise, got "
                + (f"one of {', '.join(map(str, tree))}" if isinstance(tree, Mapping) else type(tree).__name__)
            )
        return self.synthesis(self._styles(tree["z"], tree.get("crossover")), self._noise(tree))

    def synthesis(
        self, styles: list[Float[Tensor, "n style_size"]], noise: list[Float[Tensor, "n 1 size size"] | None]
    ) -> Float[Tensor, "n colours size size"]:
        """Images of a style for each layer and a map of noise for each of ``noise_sizes``."""
        raise NotImplementedError

    def _styles(self, z: Tensor, crossover: Tensor | None) -> list[Tensor]:
        n, size = len(z), self.style_size
        if z.shape not in ((n, size), (n, 2, size)):
            raise ValueError(f"z must be (n, {size}) or (n, 2, {size}), got {tuple(z.shape)}")
        if crossover is None or z.ndim == 2:
            return [self.mapping(z if z.ndim == 2 else z[:, 0])] * self.layers
        if crossover.shape != (n,):
            raise ValueError(f"crossover must be ({n},), one number a row, got {tuple(crossover.shape)}")
        first, second = self.mapping(z.flatten(0, 1)).unflatten(0, (n, 2)).unbind(1)
        return [torch.where((crossover < i).unsqueeze(1), second, first) for i in range(self.layers)]

    def _noise(self, tree: Mapping[str, Any]) -> list[Tensor | None]:
        maps = tree.get("noise")
        if maps is None:
            return [None] * len(self.noise_sizes)
        n = len(tree["z"])
        wanted = [(n, 1, size, size) for size in self.noise_sizes]
        if [tuple(one.shape) for one in maps] != wanted:
            raise ValueError(
                f"noise must be {len(wanted)} maps of shapes {wanted}, got {[tuple(one.shape) for one in maps]}"
            )
        return list(maps)


def style_latents(
    generator: nn.Module, mixing: float = 0.9, *, noise: bool = True
) -> Callable[[np.random.Generator, int], dict[str, Any]]:
    """All that a style generator's call takes, as ``Minibatches(latents=...)`` draws it.

    One coin is thrown for a batch: with probability ``mixing`` all its rows mix two latents, with one crossover,
    uniform among the layers but the last; else the crossover is the last layer, and no layer is after it.

    Args:
        generator: of :func:`stylegan` or :func:`stylegan2`, or made of one.
        mixing: the probability that a batch is mixed; with 0 there is one latent a row and no crossover.
        noise: N(0, 1) maps too, one a row and size; without them nothing is added in the generator.

    Returns:
        ``(rng, n) -> {"z": (n, 2, style_size), "crossover": (n,), "noise": (n, 1, size, size) each}``, N(0, 1) in the
        generator's data type.

    Raises:
        TypeError: it is no style generator.
        ValueError: the probability lies outside [0, 1].

    Example:
        >>> import numpy as np
        >>> from gan_influence import models
        >>> generator, _ = models.stylegan(8, style_size=4, channels=2, mapping_layers=1)
        >>> drawn = models.style_latents(generator)(np.random.default_rng(0), 3)
        >>> drawn["z"].shape, [tuple(one.shape) for one in drawn["noise"]]
        (torch.Size([3, 2, 4]), [(3, 1, 4, 4), (3, 1, 8, 8)])
    """
    if not isinstance(generator, StyleGenerator):
        raise TypeError(f"style_latents needs a generator of stylegan or stylegan2, got {type(generator).__name__}")
    check(is_real(mixing) and 0 <= mixing <= 1, "mixing", "a probability, 0 <= mixing <= 1", mixing)
    size, last, sizes = generator.style_size, generator.layers - 1, generator.noise_sizes
    dtype = next(generator.parameters()).dtype

    def normal(rng: np.random.Generator, *shape: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape)).to(dtype)

    def draw(rng: np.random.Generator, n: int) -> dict[str, Any]:
        tree: dict[str, Any] = {"z": normal(rng, n, size) if mixing == 0 else normal(rng, n, 2, size)}
        if mixing > 0:
            mixed, crossover = rng.random() < mixing, int(rng.integers(last))
            tree["crossover"] = torch.full((n,), crossover if mixed else last)
        if noise:
            tree["noise"] = tuple(normal(rng, n, 1, one, one) for one in sizes)
        return tree

    return draw
