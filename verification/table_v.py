"""The LQGAN of TNNLS Table V: a run, and the runs without some of its rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verification import bounds
from verification.bounds import Constants, Rows
from verification.dense_lqgan import LQGAN, Array, itd

__all__ = ["Sample", "constants_a_step", "table_v"]


@dataclass(frozen=True)
class Sample:
    """A run and the runs without some of its rows: (T + 1, 4) and, twice, (T + 1, J, 4)."""

    game: LQGAN
    rows: Rows
    run: Array
    removed: Array
    influence: Array

    @property
    def errors(self) -> Array:
        """|ITD - true influence|, (T + 1, J)."""
        return np.linalg.norm(self.influence - (self.removed - self.run[:, None]), axis=-1)

    @property
    def scores(self) -> Array:
        """|ITD|, (T + 1, J)."""
        return np.linalg.norm(self.influence, axis=-1)


def table_v(steps: int, rows: int) -> Sample:
    """The LQGAN of Table V: 1000 rows of N(1, 1), eta = 0.01, lambda = 0, parameters started from N(0, 1)."""
    rng = np.random.default_rng(0)
    game = LQGAN(rng.normal(1.0, 1.0, 1000), rng.normal(size=1000))
    start = rng.normal(size=4)
    chosen = np.sort(rng.choice(1000, rows, replace=False))
    run = game.train(start, steps)
    return Sample(game, chosen, run, game.train(start, steps, game.without(chosen)), itd(game, run)[:, chosen])


def constants_a_step(game: LQGAN, run: Array, removed: Array, rows: Rows) -> Constants:
    """Constants on one box a step, t = 0 ... T."""
    return bounds.constants(game, bounds.boxes_between(run, removed, 1), rows)
