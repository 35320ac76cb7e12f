"""Newton's steps towards an equilibrium, by products alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from gan_influence.finite import ConvergenceError
from gan_influence.solvers.gmres import solve

__all__ = ["FieldAt", "newton_steps"]


class FieldAt(Protocol):
    """The field that training follows, at one ``theta``."""

    def value(self) -> Float[Tensor, " d"]:
        """``v(theta)``."""

    def product(self, u: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
        """``J(theta) u``."""


def newton_steps(
    field_at: Callable[[Tensor], FieldAt], theta: Float[Tensor, " d"], steps: int, products: int, stop: int
) -> Float[Tensor, " d"]:
    """``theta <- theta - J(theta)^-1 v(theta)``, ``steps`` times, or until a change is lost in the rounding of ``v``.

    Raises:
        ConvergenceError: a step does not make ``|v|`` smaller, or GMRES fails within so many ``products``.
    """
    field = field_at(theta)
    v = field.value()
    for k in range(1, steps + 1):
        told = f"in Newton step {k} at step {stop}: allow more terms, give both players l2, or leave newton out"
        change = solve(field.product, v, products, told)
        field = field_at(theta - change)
        before, v = v, field.value()
        if not v.norm() < before.norm():
            if change.norm() <= torch.finfo(theta.dtype).eps ** 0.5 * (1 + theta.norm()):
                return theta  # as near as rounding lets it come
            raise ConvergenceError(
                f"the run is too far from an equilibrium at step {stop}: Newton step {k} takes |v| from "
                f"{before.norm():.2g} to {v.norm():.2g}. Train longer, leave newton out, or score with gi.itd, which "
                "needs no equilibrium"
            )
        theta = theta - change
    return theta
