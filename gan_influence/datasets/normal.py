"""Normal data in one and two dimensions, clean and contaminated."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["contaminated_normal_1d", "normal_1d", "normal_2d"]


def normal_1d(n: int, mean: float = 1.0, variance: float = 1.0, *, seed: int) -> Float[Tensor, "n 1"]:
    """``n`` rows from N(mean, variance), float64: by default the 1D-Normal data of TNNLS VI-B1.

    Raises:
        ValueError: ``n < 1``, or a negative or non-finite variance.
    """
    _check(n, variance)
    return mean + math.sqrt(variance) * _standard(n, _generator(seed))


def normal_2d(n: int, *, seed: int) -> Float[Tensor, "n 2"]:
    """``n`` rows from N((1, 1), ((1, .8), (.8, 1))), float64: the 2D-Normal data of ICLR C.2.

    Raises:
        ValueError: ``n < 1``.
    """
    _check_size(n)
    cholesky = torch.tensor([[1.0, 0.0], [0.8, 0.6]], dtype=torch.float64)
    return 1 + _standard(n, _generator(seed), 2) @ cholesky.T


def contaminated_normal_1d(
    n: int,
    *,
    seed: int,
    clean: tuple[float, float] = (1.0, 0.5),
    harmful: tuple[float, float] = (-2.0, 0.5),
    clean_share: float = 0.95,
) -> tuple[Float[Tensor, "n 1"], Bool[Tensor, " n"]]:
    """The contaminated 1D-Normal data of TNNLS VI-C1: ``x ~ b N(1, 0.5) + (1 - b) N(-2, 0.5)``, b ~ Bernoulli(0.95).

    Args:
        n: how many rows.
        seed: of all draws.
        clean, harmful: ``(mean, variance)`` of each part. The second argument of N is read as a variance, as in the
            paper's own N(0, I); Table VII has the numbers of standard deviations, ``(1, 0.25)`` and ``(-2, 0.25)``.
        clean_share: the Bernoulli's parameter.

    Returns:
        The rows, float64 ``(n, 1)``, and a mask ``(n,)`` of those drawn from the harmful part.

    Raises:
        ValueError: ``n < 1``, a negative or non-finite variance, a share outside [0, 1].
    """
    _check(n, clean[1])
    _check(n, harmful[1])
    if not 0 <= clean_share <= 1:
        raise ValueError(f"clean_share must lie in [0, 1], got {clean_share!r}")
    random = _generator(seed)
    is_harmful = torch.rand(n, generator=random, dtype=torch.float64) >= clean_share
    noise = _standard(n, random)
    rows = torch.where(
        is_harmful.unsqueeze(1),
        harmful[0] + math.sqrt(harmful[1]) * noise,
        clean[0] + math.sqrt(clean[1]) * noise,
    )
    return rows, is_harmful


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _standard(n: int, random: torch.Generator, dimension: int = 1) -> Float[Tensor, "n dimension"]:
    return torch.randn(n, dimension, generator=random, dtype=torch.float64)


def _check(n: int, variance: float) -> None:
    _check_size(n)
    if not 0 <= variance < math.inf:
        raise ValueError(f"a variance must be a finite number >= 0, got {variance!r}")


def _check_size(n: int) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n must be a whole number >= 1, got {n!r}")
