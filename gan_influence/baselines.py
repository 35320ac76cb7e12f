"""Rankings that look at no game: what an influence score has to beat (ICLR 5.2, Appendix B)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gan_influence.checks import check_whole
from gan_influence.metrics.inputs import check_rows

__all__ = ["isolation_forest", "random_order"]


def isolation_forest(rows: Float[Tensor, "N *instance"], seed: int = 0) -> Float[Tensor, " N"]:
    """How normal each row is to an isolation forest (Liu et al. 2008), in (-1, 0), float64: lower is more abnormal.

    scikit-learn's ``IsolationForest(random_state=seed).fit(rows).score_samples(rows)``, each row flattened. As a
    baseline of ICLR 5.2 it takes the most abnormal rows for the most harmful, ``scores.argsort()[:n_h]``; it is given
    the raw rows of 2D-Normal, but a classifier's features of MNIST.

    Raises:
        ImportError: scikit-learn is not installed.
        TypeError: rows are no floating-point tensor.
        ValueError: rows are empty or not finite, or have numbers beyond float32, in which scikit-learn's trees compare.
    """
    try:
        from sklearn.ensemble import IsolationForest
    except ImportError as error:
        raise ImportError("isolation_forest needs scikit-learn: pip install scikit-learn") from error
    check_rows("rows", rows)
    flat = _float_rows(rows).cpu().numpy()
    scores = IsolationForest(random_state=seed).fit(flat).score_samples(flat)
    return torch.from_numpy(scores).to(rows.device)


def _float_rows(rows: Float[Tensor, "N *instance"]) -> Float[Tensor, "N d"]:
    """Flattened, and at least float32: NumPy has no bfloat16."""
    flat = rows.detach().reshape(len(rows), -1)
    largest = torch.finfo(torch.float32).max
    beyond = (flat.abs() > largest).nonzero()
    if len(beyond):
        row, column = beyond[0].tolist()
        raise ValueError(
            f"rows[{row}] holds {flat[row, column].item():.3g}, but isolation_forest compares in float32, up to "
            f"{largest:.3g}: divide the rows by a constant"
        )
    return flat.to(torch.promote_types(flat.dtype, torch.float32))


def random_order(n: int, seed: int) -> Float[Tensor, " n"]:
    """Uniform random scores in [0, 1), float64: the "random values" of ICLR 5.2, ``scores.argsort()[:n_h]`` harmful.

    Raises:
        ValueError: ``n < 1``.
    """
    check_whole("n", n)
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
