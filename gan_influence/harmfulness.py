"""From scores to rows: which are to be removed first, and which groups of them do harm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gan_influence.checks import check, is_real, is_whole

__all__ = ["checked_scores", "group_scores", "harmful_rows", "harmfulness", "larger_is_better", "members"]


def larger_is_better(metric: Any) -> bool:
    """Is a larger value of this metric a better one?

    Raises:
        TypeError: the metric does not say so, by an attribute ``larger_is_better`` that is ``True`` or ``False``.
    """
    says = getattr(metric, "larger_is_better", None)
    if not isinstance(says, bool):
        name = getattr(metric, "__name__", type(metric).__name__)
        raise TypeError(
            f"metric {name} does not say whether larger is better: give it an attribute larger_is_better, True or False"
        )
    return says


def harmfulness(scores: Float[Tensor, "*which N"], metric: Any) -> Float[Tensor, "*which N"]:
    """How much removing each row improves the metric: higher is to be removed first.

    A score is ``metric(after removal) - metric(before)``. Where larger is better that is the improvement; where
    smaller is better, as of a Fréchet distance, its opposite.

    Args:
        scores: of :func:`gan_influence.itd`, :func:`gan_influence.aid`, :func:`gan_influence.counterfactual`.
        metric: that was scored.

    Raises:
        TypeError: the metric does not say whether larger is better; scores are no floating-point tensor.
        ValueError: scores are NaN or infinite.
    """
    given = checked_scores(scores)
    return given if larger_is_better(metric) else -given


def harmful_rows(
    scores: Float[Tensor, " N"],
    metric: Any,
    *,
    rate: float | None = None,
    count: int | None = None,
    only_harmful: bool = True,
) -> Int[Tensor, " n"]:
    """The rows whose removal improves the metric most, the most harmful first; equal ones in their order.

    Args:
        scores: one a row, ``metric(after removal) - metric(before)``.
        metric: that was scored; it says whether larger is better.
        rate: which share of all rows at most, in (0, 1).
        count: how many at most.
        only_harmful: leave those out whose removal would not improve it, so that there may be fewer.

    Returns:
        Row indices, on the CPU.

    Raises:
        TypeError, ValueError: as of :func:`harmfulness`; not one of ``rate`` and ``count``, or outside their range.
    """
    harm = harmfulness(scores, metric).cpu()
    if harm.ndim != 1:
        raise ValueError(f"scores must be (N,), one a row, got shape {tuple(harm.shape)}: take one of several")
    if (rate is None) == (count is None):
        raise ValueError(f"give either rate or count, got rate={rate!r} and count={count!r}")
    check(rate is None or (is_real(rate) and 0 < rate < 1), "rate", "a share of the rows in (0, 1)", rate)
    whole = count is None or (is_whole(count) and 0 < count < len(harm))
    check(whole, "count", f"a number of rows from 1 to {len(harm) - 1}, of {len(harm)}", count)
    wanted = int(rate * len(harm)) if rate is not None else count
    order = harm.argsort(descending=True, stable=True)[:wanted]
    return order[harm[order] > 0] if only_harmful else order


def group_scores(scores: Float[Tensor, "*which N"], groups: Sequence[Any] | Tensor) -> dict[Any, Tensor]:
    """The sum of the scores of each group: the first-order estimate of what removing all of it does.

    Args:
        scores: one a row, or several of them.
        groups: of each row, to which it belongs: a class, a file, a person.

    Returns:
        ``{group: sum}`` in the order in which the groups first occur, each of shape ``(*which)``.

    Raises:
        TypeError, ValueError: scores are no finite floating-point tensor; not one group a row.
    """
    given = checked_scores(scores)
    names = members(groups, given.shape[-1])
    return {name: given[..., rows].sum(-1) for name, rows in names.items()}


def members(groups: Sequence[Any] | Tensor, size: int) -> dict[Any, list[int]]:
    """The rows of each group, in the order in which the groups first occur.

    Raises:
        TypeError, ValueError: not one group a row.
    """
    given: Any = groups.tolist() if isinstance(groups, Tensor | np.ndarray) else groups
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"groups must be a list of labels, one a row, got {groups!r}")
    found: dict[Any, list[int]] = {}
    for row, name in enumerate(given):
        found.setdefault(name, []).append(row)
    if sum(map(len, found.values())) != size:
        raise ValueError(f"there are {size} rows, but groups of {sum(map(len, found.values()))}: one a row")
    return found


def checked_scores(scores: Any, size: int | None = None) -> Float[Tensor, "*which N"]:
    """Scores as a tensor without a graph; of one a row, where there are ``size`` rows.

    Raises:
        TypeError, ValueError: they are no floating-point tensor or array, of another shape, NaN or infinite.
    """
    given = torch.from_numpy(scores) if isinstance(scores, np.ndarray) else scores
    wanted = f"({'N' if size is None else size},)"
    if not isinstance(given, Tensor) or not given.is_floating_point() or (size is None and not given.ndim):
        kind = given.dtype if isinstance(given, Tensor) else type(given).__name__
        raise TypeError(f"scores must be a floating-point tensor {wanted}, one a row, got {kind}")
    if size is not None and given.ndim == 2 and given.shape[1] == size:
        raise ValueError(
            f"scores are of {len(given)} stops or terms, shape {tuple(given.shape)}: take one of them, such as "
            "scores[-1], on a run that ends where it was scored"
        )
    if size is not None and given.shape != (size,):
        raise ValueError(f"the data has {size} rows, but scores have shape {tuple(given.shape)}: one a row")
    bad = (~given.isfinite()).nonzero()
    if len(bad):
        raise ValueError(f"scores contain NaN or infinity, first for row {int(bad[0, -1])}: nothing can be compared")
    return given.detach()
