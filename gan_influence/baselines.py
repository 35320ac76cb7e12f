"""Selections: which rows to remove first, by a trace and a metric; what an influence score has to beat (ICLR 5.2).

A selection is any function ``(trace, metric) -> (N,)``, each row's harmfulness: higher is to be removed first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gan_influence import trees
from gan_influence.checks import check_whole
from gan_influence.harmfulness import harmfulness
from gan_influence.itd import itd
from gan_influence.metrics.discriminator_loss import DiscriminatorLoss
from gan_influence.metrics.inputs import check_rows
from gan_influence.trace import Trace

__all__ = [
    "Selection",
    "by_chance",
    "by_discriminator_loss",
    "by_influence",
    "by_isolation_forest",
    "isolation_forest",
    "random_order",
]

Selection: TypeAlias = Callable[[Trace, Any], Float[Tensor, " N"]]


def by_influence(estimator: Callable[..., Tensor] = itd, **options: Any) -> Selection:
    """By the estimated influence on the metric, of :func:`gan_influence.itd` or ``by_influence(gi.aid, terms=100)``."""
    return lambda trace, metric: harmfulness(estimator(trace, metric, **options), metric)


def by_discriminator_loss(
    reference: Any, latents: Any, estimator: Callable[..., Tensor] = itd, **options: Any
) -> Selection:
    """By the estimated influence on the discriminator's loss, whatever the metric (ICLR 5.2)."""
    loss = DiscriminatorLoss(reference, latents)
    return lambda trace, _: harmfulness(estimator(trace, loss, **options), loss)


def by_isolation_forest(features: Callable[[Tensor], Tensor] | None = None, seed: int = 0) -> Selection:
    """The most abnormal rows first, by :func:`isolation_forest` of the rows or of their features, whatever the metric.

    ``features`` is called without gradients, on at most 1 000 rows at a time.
    """

    def select(trace: Trace, _: Any) -> Float[Tensor, " N"]:
        rows = trace.data
        if not isinstance(rows, Tensor) and features is None:
            raise TypeError("rows that are more than one tensor need features=, a function of them to (n, f)")
        with torch.no_grad():
            seen = rows if features is None else torch.cat([features(part) for part in _parts(rows, trace.size)])
        return -isolation_forest(seen, seed)

    return select


def by_chance(seed: int = 0) -> Selection:
    """Rows in random order."""
    return lambda trace, _: -random_order(trace.size, seed)


def _parts(rows: Any, size: int) -> list[Any]:
    return [trees.take(rows, slice(k, k + 1000)) for k in range(0, size, 1000)]


def isolation_forest(
    rows: Float[Tensor, "N *instance"], seed: int = 0, healthy: Float[Tensor, "n *instance"] | None = None
) -> Float[Tensor, " N"]:
    """How normal each row is to an isolation forest (Liu et al. 2008), in (-1, 0), float64: lower is more abnormal.

    scikit-learn's ``IsolationForest(random_state=seed).fit(rows).score_samples(rows)``, each row flattened. As a
    baseline of ICLR 5.2 it takes the most abnormal rows for the most harmful, ``scores.argsort()[:n_h]``; it is given
    the raw rows of 2D-Normal, but a classifier's features of MNIST.

    Args:
        rows: to be scored.
        seed: of the trees.
        healthy: what the trees are fitted to; by default the rows themselves.

    Raises:
        ImportError: scikit-learn is not installed.
        TypeError: rows are no floating-point tensor.
        ValueError: rows are empty or not finite, or have numbers beyond float32, in which scikit-learn's trees compare.
    """
    try:
        from sklearn.ensemble import IsolationForest
    except ImportError as error:
        raise ImportError("isolation_forest needs scikit-learn: pip install scikit-learn") from error
    flat = _flattened("rows", rows)
    fitted = IsolationForest(random_state=seed).fit(flat if healthy is None else _flattened("healthy", healthy))
    scores = fitted.score_samples(flat)
    return torch.from_numpy(scores).to(rows.device)


def _flattened(name: str, rows: Float[Tensor, "N *instance"]) -> Float[np.ndarray, "N d"]:
    """Each row as a vector, of at least float32: NumPy has no bfloat16."""
    check_rows(name, rows)
    flat = rows.detach().reshape(len(rows), -1)
    largest = torch.finfo(torch.float32).max
    beyond = (flat.abs() > largest).nonzero()
    if len(beyond):
        row, column = beyond[0].tolist()
        raise ValueError(
            f"{name}[{row}] holds {flat[row, column].item():.3g}, but isolation_forest compares in float32, up to "
            f"{largest:.3g}: divide the rows by a constant"
        )
    return flat.to(torch.promote_types(flat.dtype, torch.float32)).cpu().numpy()


def random_order(n: int, seed: int) -> Float[Tensor, " n"]:
    """Uniform random scores in [0, 1), float64: the "random values" of ICLR 5.2, ``scores.argsort()[:n_h]`` harmful.

    Raises:
        ValueError: ``n < 1``.
    """
    check_whole("n", n)
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
