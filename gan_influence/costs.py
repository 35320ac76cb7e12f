"""What each player pays, and the one place where a weight meets a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from jaxtyping import Float
from torch import Tensor

__all__ = ["Cost", "Costs", "mean", "weighted"]


class Costs(NamedTuple):
    """What each player pays, by its name: a cost for each row of the batch, and the rest.

    Attributes:
        rows: what the rows' weights multiply, ``(B,)`` each. A row's entry depends on no other row: then a removal is
            what it says.
        rest: what stays when a row is removed, a scalar each: costs of generated rows, penalties of a batch.
    """

    rows: Mapping[str, Float[Tensor, " batch"]] = {}
    rest: Mapping[str, Float[Tensor, ""]] = {}


Cost: TypeAlias = Callable[[Any, Any], Costs]  # (players, batch): gan_influence.Players, gan_influence.batch.Inputs


def weighted(costs: Costs, weights: Float[Tensor, " batch"]) -> dict[str, Float[Tensor, ""]]:
    """``(1/|B|) sum_i w_i rows_i + rest`` of each player; the denominator stays when a weight is 0."""
    paid = {name: mean(weights * rows) for name, rows in costs.rows.items()}
    for name, rest in costs.rest.items():
        paid[name] = paid[name] + rest if name in paid else rest
    return paid


def mean(costs: Float[Tensor, " rows"]) -> Float[Tensor, ""]:
    """Their mean.

    Raises:
        ValueError: they are no vector.
    """
    if costs.ndim != 1:
        raise ValueError(f"a loss must give one cost a row, a vector like its logits, got shape {tuple(costs.shape)}")
    return costs.sum() / len(costs)  # not mean(): its backward divides every row where this divides one number
