"""What is said of a fixed-point iteration that has not come near its fixed point."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from gan_influence.solvers.protocol import Operator
from gan_influence.solvers.spectrum import Step, asymmetry, ends, growth
from gan_influence.surroundings import warn

__all__ = ["advice", "positive", "several_players", "warn_of_cut"]

_FAR = 0.1  # a relative residual above which a solution that is cut off on purpose comes with a warning


def advice(operator: Operator, step: Step, b: Float[Tensor, "k d"], setting: Callable[[float], str]) -> str:
    """Why it diverged, and what would not: from some products more.

    Args:
        operator: ``A``.
        step: of the iteration.
        b: the right-hand sides.
        setting: what to say of the setting that limits steps, given the largest curvature that they meet.
    """
    if (products := asymmetry(operator, b[0])) is not None:
        return f"For {several_players(*products)}"
    least, largest = ends(operator, b[0])
    if least < 0:
        return (
            f"The curvature goes from {least:.3g} to {largest:.3g}, and with a negative one no setting does: "
            f"{positive(least)}"
        )
    met, _ = growth(step, b[0])
    return f"The largest curvature met is {met:.3g}: {setting(met)}"


def positive(least: float) -> str:
    """What to do about a least curvature that is not above 0."""
    return (
        f"add damping above {-least:.3g}, take curvature='gauss_newton', or a solver for any matrix, 'gmres' or "
        "'normal_equations'"
    )


def several_players(one: float, other: float) -> str:
    """What to do about a matrix for which ``<u, A v>`` and ``<v, A u>`` are two numbers."""
    return (
        f"<u, A v> is {one:.3g} and <v, A u> {other:.3g} of two directions, as in games of several players: take "
        "solver='gmres' or 'normal_equations'"
    )


def warn_of_cut(name: str, left: float, after: str) -> None:
    """A solution that was asked for as it is after so many steps, and is far from solving the equation."""
    if left > _FAR:
        warn(
            f"{name} left a relative residual of {left:.1e} {after}: the scores are those of its settings, not of the "
            "equation that it is to solve. Give tolerance= to have it solved, or take solver='cg'"
        )
