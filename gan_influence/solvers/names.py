"""Solvers by their names: the short forms of :func:`gan_influence.aid`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gan_influence.checks import is_whole
from gan_influence.solvers.cg import CG
from gan_influence.solvers.gmres import GMRES
from gan_influence.solvers.lissa import LiSSA
from gan_influence.solvers.momentum import Momentum
from gan_influence.solvers.neumann import Neumann
from gan_influence.solvers.normal_equations import NormalEquations
from gan_influence.solvers.protocol import Solver

__all__ = ["DEFAULT_TERMS", "SOLVERS", "chosen"]

_COUNTED: dict[str, tuple[Callable[..., Solver], str]] = {  # and what each calls the most that it may do
    "gmres": (GMRES, "products"),
    "cg": (CG, "products"),
    "normal_equations": (NormalEquations, "products"),
    "lissa": (LiSSA, "depth"),
    "momentum": (Momentum, "steps"),
}
SOLVERS = ("neumann", *_COUNTED)
DEFAULT_TERMS = int("1000")  # an object of its own: the 1000 that a caller gives is another, so that it counts as given


def chosen(
    solver: str | Solver, terms: int | Sequence[int], scale: float | None, tolerance: float | None
) -> tuple[Solver, int]:
    """The solver that a name or an object stands for, and the most terms or products that are spoken of besides.

    Raises:
        ValueError: an unknown name, a setting that the solver refuses, or one that is given besides an object.
    """
    if not isinstance(solver, str):
        _check_object(solver, {"terms": terms, "scale": scale, "tolerance": tolerance})
        return solver, DEFAULT_TERMS
    if solver not in SOLVERS:
        raise ValueError(_unknown(solver))
    series = Neumann(terms, tolerance, scale)  # which knows what these may be
    if solver == "neumann":
        return series, max(series.counts)
    kind, count = _COUNTED[solver]
    name = getattr(kind, "__name__", solver)
    if not is_whole(series.terms):
        raise ValueError(
            f"{name} has no partial sums to read off: give one number of terms, the most products it may use"
        )
    _check_settings(solver, name, series)
    settings = {} if terms is DEFAULT_TERMS else {count: series.terms}
    return kind(**settings, **({} if tolerance is None else {"tolerance": tolerance})), series.terms


def _check_settings(solver: str, name: str, series: Neumann) -> None:
    """GMRES's solution does not depend on ``scale``, which may be given for the sake of programs that try both."""
    if solver == "gmres" and series.tolerance is not None:
        raise ValueError(
            "tolerance ends the Neumann series, but solver='gmres' has none: leave tolerance out, or take "
            "solver='neumann'; that of GMRES's residual is solver=gi.solvers.GMRES(tolerance=)"
        )
    if solver != "gmres" and series.scale is not None:
        raise ValueError(
            f"scale={series.scale:g} is eta of TNNLS eq. 11, which solver={solver!r} does not have: leave it out, or "
            f"take an object with settings of its own, solver=gi.solvers.{name}()"
        )


def _check_object(solver: Solver, besides: dict[str, object]) -> None:
    if isinstance(solver, type) or not callable(getattr(solver, "solve", None)):
        raise ValueError(_unknown(solver))
    given = [name for name, value in besides.items() if value is not (DEFAULT_TERMS if name == "terms" else None)]
    if given:
        wanted = ", ".join(f"{name}={besides[name]!r}" for name in given)
        raise ValueError(
            f"{wanted} besides solver={solver!r}: a solver that is an object has its settings itself. Give them there, "
            "as in solver=gi.solvers.Neumann(terms=50, scale=0.1), or leave them out"
        )


def _unknown(solver: object) -> str:
    return (
        f"unknown solver {solver!r}; known solvers: {', '.join(SOLVERS)}, or an object with "
        "solve(operator, b, progress=), such as gi.solvers.GMRES()"
    )
