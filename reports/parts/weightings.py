"""A run again, with other weights of its rows: many weightings at once."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

import gan_influence as gi
from gan_influence import trees
from gan_influence.step import states

__all__ = ["trained_with"]


def trained_with(
    trace: gi.Trace, weights: Float[Tensor, "models N"], start: int | None = None
) -> Float[Tensor, "models d"]:
    """The parameters to which the run leads with each of these weights of its rows, trained as one batch of models.

    A weight of 0 is a removal with the denominator unchanged (TNNLS eq. 6), equal weights scale the rows' term.

    Args:
        trace: the run.
        weights: of each model.
        start: the step up to which the run's own states stand; by default its first.
    """
    start = trace.first if start is None else start
    reached = trees.mapped(lambda part: part.repeat(len(weights), *[1] * part.ndim), trace.state(start))
    for _, state in states(trace, reached, weights.to(trace.weights), range(start, trace.steps)):
        reached = state
    return reached.moving[..., trace.updates.seen, :]
