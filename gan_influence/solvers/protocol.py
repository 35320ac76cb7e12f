"""What AID asks of a solver, and what a solver is given: the equation ``A^T x = b``, by products alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gan_influence.finite import ConvergenceError

__all__ = ["Operator", "Solution", "Solver", "check_solution", "row"]


class Operator(Protocol):
    """``A = J + diag(shift)``: how the field changes with ``theta``, where a run stays at its last parameters.

    ``J`` is the mean over batches that hold all rows; ``J_m``, m = 0, 1, ..., is that of the m-th fresh batch alone,
    and ``A_m = J_m + diag(shift)``. Vectors are the rows of ``(k, d)``, one for each right-hand side. Either one
    ``theta`` is behind all of them, and then a single vector ``(d,)`` may be given too, or each row has its own.
    """

    @property
    def end(self) -> int:
        """The step of training whose batch is the first fresh one."""

    @property
    def shift(self) -> Float[Tensor, " d"]:
        """What is added to the diagonal of each J: the damping and the optimisers' weight decay."""

    @property
    def eta(self) -> Float[Tensor, " d"]:
        """Each parameter's learning rate at the last step of training.

        Raises:
            ValueError: one of them is 0.
        """

    def transpose_product(self, c: Float[Tensor, "*k d"]) -> Float[Tensor, "*k d"]:
        """``A^T c``."""

    def product(self, u: Float[Tensor, "*k d"]) -> Float[Tensor, "*k d"]:
        """``A u``."""

    def transpose_step(self, m: int, w: Float[Tensor, "k d"], eta: Float[Tensor, " d"]) -> Float[Tensor, "k d"]:
        """``(I - eta A_m)^T w``: a step of gradient descent with the m-th fresh batch, linearised and transposed."""

    def repeats(self, m: int) -> bool:
        """Is the m-th fresh batch the one that all steps see? Where all are, ``A_m`` is ``A``."""

    def check_series(self, terms: int) -> None:
        """Are there ``terms - 1`` fresh batches? Better said before a series than at its end.

        Raises:
            ValueError: the schedule does not go on for so long.
        """

    def apart(self) -> Iterator[Operator]:
        """The operators of one ``theta`` each, in the order of the rows; itself, where one ``theta`` is behind all."""

    def where(self, rows: Bool[Tensor, " k"]) -> str:
        """For messages: the steps of training at which these right-hand sides stand, such as ``"step 2, 5"``."""


@dataclass(frozen=True)
class Solution:
    """What a solver found.

    Attributes:
        x: the solutions; leading dimensions, where a solver reads several off, as a series its partial sums.
        products: how many products with a matrix were made, each with one vector or with all k at once.
        residual: ``|A^T x - b| / |b|`` of each; ``None`` where the solver did not measure it.
        converged: is the residual, or the error, what the solver's settings ask for, of each or of all? ``None`` where
            they ask for no such thing, as a series that is to be cut off after so many terms.
        told: where not all have converged: where, how far they got, and what to do.
    """

    x: Float[Tensor, "*read k d"]
    products: int
    residual: Float[Tensor, "*read k"] | None = None
    converged: Bool[Tensor, "*read k"] | bool | None = None
    told: str = ""


class Solver(Protocol):
    """Solves ``A^T x = b`` by products with A. Its settings are fields, checked when it is made.

    For every operator of one ``theta`` that is not singular and every ``b`` of shape ``(k, d)`` there must hold

    * row i of ``x`` is what ``b[i]`` alone gives, up to rounding; ``b`` and the operator stay as they are;
    * where ``converged``, ``|A^T x - b|`` or ``|x - A^-T b|`` is as small as the settings ask for;
    * what is not solved is never returned in silence: ``converged`` is false there and ``told`` names
      ``operator.where`` and the fix, or there is a ``ConvergenceError``. Bad settings are refused at construction.

    A solver may have an attribute ``rowwise = True``: it then solves all ends of a run at once, and is given operators
    of which each row has its own ``theta``. It must mix no rows.

    In AID ``x`` is eta times the w of TNNLS eq. 18, whatever eta is: ``(I - Z^T) w = b`` with ``I - Z = eta A``.
    """

    def solve(self, operator: Operator, b: Float[Tensor, "k d"], *, progress: bool = False) -> Solution:
        """``x`` with ``A^T x = b``.

        Args:
            operator: ``A``.
            b: the right-hand sides; in AID gradients of metrics.
            progress: show a progress bar, where the solver has one.
        """


def row(b: Float[Tensor, "k d"], k: int) -> Bool[Tensor, " k"]:
    """The k-th right-hand side, as :meth:`Operator.where` takes it."""
    return torch.arange(len(b), device=b.device) == k


def check_solution(found: Solution, solver: Solver, operator: Operator, b: Float[Tensor, "k d"]) -> None:
    """Is this a solution, of every right-hand side?

    Raises:
        TypeError: it is none.
        ValueError: it has not the shape, type and device of ``b``.
        ConvergenceError: some are not solved.
    """
    name = type(solver).__name__
    if not isinstance(found, Solution):
        raise TypeError(f"{name}.solve must return a gi.solvers.Solution, got {type(found).__name__}")
    if found.x.shape[-2:] != b.shape or (found.x.dtype, found.x.device) != (b.dtype, b.device):
        raise ValueError(
            f"{name}.solve must return x of the right-hand sides' shape {tuple(b.shape)}, {b.dtype} on {b.device}, got "
            f"{tuple(found.x.shape)}, {found.x.dtype} on {found.x.device}"
        )
    converged = torch.as_tensor(found.converged is None or found.converged).expand(found.x.shape[:-1])
    if not converged.all():
        rows = ~converged.reshape(-1, len(b)).all(0)
        raise ConvergenceError(
            found.told
            or f"{name} has not converged at {operator.where(rows)} after {found.products} products: allow "
            "more, or add damping"
        )
