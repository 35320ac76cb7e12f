"""The Neumann series of TNNLS eq. 14 and 18, with a fresh batch a term (VI-A2)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from gan_influence.checks import check, check_positive, is_whole
from gan_influence.progress import shown
from gan_influence.solvers.gmres import Product, check_tolerance
from gan_influence.solvers.inverse_norm import inverse_norm
from gan_influence.solvers.protocol import Operator, Solution, row
from gan_influence.surroundings import warn

__all__ = ["Neumann"]

_LOOK_EVERY = 50  # terms of the series; to look at numbers is to wait for the device
_CUT_OFF = 20  # a series of fewer terms is cut off on purpose
_PRODUCTS = 1000  # of each solution by GMRES that the size of an inverse takes, at least


@dataclass(frozen=True)
class Neumann:
    r"""``x = eta sum_{m<M} Z_m^T ... Z_1^T b`` with ``Z_m = I - eta A_{m-1}``, of the batches as they come.

    Where all steps see the same batch ``A^T x = b - (Z^T)^M b``, and x tends to the solution if Z contracts. Without a
    ``tolerance`` the sum is cut off as asked, whatever it lacks, with a warning where it plainly does not converge.

    Args:
        terms: ``M >= 1``, the terms of the series; several numbers are read off one series, ``x: (len(terms), k, d)``.
            It ends early where eta times its term is zero in the type of the parameters.
        tolerance: end at the first M <= ``terms`` with ``|(I - Z)^-1| |(Z^T)^M b| <= tolerance |sum|``, a bound of
            what the sum lacks, relative to it. It takes steps that all see the same batch.
        scale: eta of TNNLS eq. 11; by default each player's learning rate at the last step.

    Raises:
        ValueError: a number that is none, or a ``tolerance`` with several ``terms``.
    """

    terms: int | Sequence[int] = 1000
    tolerance: float | None = None
    scale: float | None = None
    rowwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        counts = tuple(self.terms) if isinstance(self.terms, Sequence | np.ndarray) else (self.terms,)
        holds = bool(counts) and all(is_whole(count) and count >= 1 for count in counts)
        check(holds, "terms", "a whole number >= 1, or several", self.terms)
        if self.scale is not None:
            check_positive("scale", self.scale)
        check_tolerance(self.tolerance)
        if self.tolerance is not None and not is_whole(self.terms):
            raise ValueError(
                f"a series that ends at tolerance={self.tolerance:g} has no other ends: give one number of terms, the "
                f"most that it may take, got {self.terms!r}"
            )
        object.__setattr__(self, "terms", self.terms if is_whole(self.terms) else counts)

    @property
    def counts(self) -> tuple[int, ...]:
        """The numbers of terms that are read off."""
        return self.terms if isinstance(self.terms, tuple) else (self.terms,)

    def solve(self, operator: Operator, b: Float[Tensor, "k d"], *, progress: bool = False) -> Solution:
        """See :class:`gan_influence.solvers.Solver`."""
        eta = operator.eta if self.scale is None else b.new_full(b.shape[-1:], self.scale)
        return (self._cut_off if self.tolerance is None else self._within)(operator, b, eta, progress)

    def _cut_off(self, operator: Operator, b: Float[Tensor, "k d"], eta: Tensor, progress: bool) -> Solution:
        """``sum_{m<M} Z_m^T ... Z_1^T b`` for each M of ``counts``, from one series."""
        most = max(self.counts)
        operator.check_series(most)
        series = _terms(operator, b, eta)
        term = next(series)
        total, sums, products = term.clone(), {1: term}, 0
        for m in tqdm(range(1, most), desc="aid", unit="term", disable=not shown(progress)):
            if m % _LOOK_EVERY == 0 and _settled(eta * term):
                break
            term, products = next(series), m
            total += term
            if m + 1 in self.counts:
                sums[m + 1] = total.clone()
        finite, told = total.isfinite().all(1), ""
        if finite.all():
            _warn_of_divergence(operator, term, total, most)
        else:
            told = _overflow(operator, ~finite, most)
        w = torch.stack([sums.get(count, total) for count in self.counts])
        w = w if isinstance(self.terms, tuple) else w[0]
        return Solution(eta * w, products, None, w.isfinite().all(-1) if told else None, told)

    def _within(self, operator: Operator, b: Float[Tensor, "k d"], eta: Tensor, progress: bool) -> Solution:
        """``eta w_M`` of the first ``M <= terms`` with ``|(I - Z)^-1| |(Z^T)^M b| <= tolerance |w_M|``, for each ``b``.

        The left side bounds ``|w - w_M|``, for ``w - w_M = (I - Z^T)^-1 (Z^T)^M b``.
        """
        tolerance, (terms,) = self.tolerance, self.counts
        assert tolerance is not None
        operator.check_series(terms + 1)
        inverses, products = _inverse_norms(operator, b, eta, terms)
        series = _terms(operator, b, eta)
        term, total = next(series), torch.zeros_like(b)
        is_far, lacking = torch.ones_like(inverses, dtype=torch.bool), torch.full_like(inverses, torch.inf)
        told = ""
        for m in tqdm(range(1, terms + 1), desc="aid", unit="term", disable=not shown(progress)):
            total = torch.where(is_far[:, None], total + term, total)
            finite = total.isfinite().all(1)
            if not finite.all():
                told = _overflow(operator, ~finite, m)
                break
            _check_repeats(operator, m - 1)
            term, products = next(series), products + 1
            last, whole = term.norm(dim=1), total.norm(dim=1)
            lacking = torch.where(is_far, last.double(), lacking)
            is_far &= ~(whole.isfinite() & (inverses * last <= tolerance * whole))  # squares overflow before sums do
            if not is_far.any():
                break
        else:
            told = self._missed(operator, inverses, inverses * last / whole, is_far)
        residual = lacking / b.double().norm(dim=1).clamp(min=torch.finfo(torch.float64).tiny)
        return Solution(eta * total, products, residual, ~is_far, told)

    def _missed(self, operator: Operator, inverses: Tensor, ratios: Tensor, is_far: Bool[Tensor, " k"]) -> str:
        left, norms = (", ".join(f"{one:.2g}" for one in of[is_far].tolist()) for of in (ratios, inverses))
        return (
            f"AID's series has not come within tolerance={self.tolerance:g} of its limit after {self.terms} terms at "
            f"{operator.where(is_far)}: |(I - Z)^-1| |(Z^T)^{self.terms} grad E| is {left} of its sum, with "
            f"|(I - Z)^-1| = {norms}. Allow more terms, add damping, or take solver='gmres', which gives the limit"
        )


def _terms(operator: Operator, b: Float[Tensor, "k d"], eta: Float[Tensor, " d"]) -> Iterator[Float[Tensor, "k d"]]:
    """``b``, ``Z_1^T b``, ``Z_2^T Z_1^T b`` and so on."""
    term = b
    for m in itertools.count():
        yield term
        term = operator.transpose_step(m, term, eta)


def _inverse_norms(
    operator: Operator, b: Float[Tensor, "k d"], eta: Float[Tensor, " d"], terms: int
) -> tuple[Float[Tensor, " k"], int]:
    """``|(I - Z)^-1|``, where ``I - Z`` is ``eta A``, a learning rate a row; and how many products it took."""
    _check_repeats(operator, 0)
    products = 0

    def counted(product: Product, vector: Tensor) -> Tensor:
        nonlocal products
        products += 1
        return product(vector)

    def norm(one: Operator, k: int) -> float:
        forward = partial(counted, lambda u: eta * one.product(u))
        backward = partial(counted, lambda c: one.transpose_product(eta * c))
        at = f"I - Z at {operator.where(row(b, k))}"
        return inverse_norm(forward, backward, b[k], max(terms, _PRODUCTS), at)

    norms = [norm(one, k) for k, one in enumerate(operator.apart())]
    return b.new_tensor(norms, dtype=torch.float64).expand(len(b)), products


def _check_repeats(operator: Operator, m: int) -> None:
    if not operator.repeats(m):
        raise ValueError(
            f"tolerance= needs steps that all see the same batch, as with FullBatch, but step {operator.end + m} has "
            "one of its own: a stochastic series has no limit to come near. Take solver='gmres', the limit for the "
            "batches' mean, or leave tolerance out and give terms"
        )


def _settled(scaled: Float[Tensor, "k d"]) -> bool:
    """Is eta times the term zero in every row, or not finite? Then no product with J changes the term any more."""
    return bool((~scaled.any(1) | ~scaled.isfinite().all(1)).all())


def _overflow(operator: Operator, rows: Bool[Tensor, " k"], terms: int) -> str:
    return (
        f"the Neumann series of {terms} terms overflowed at {operator.where(rows)}: Z = I - eta J has an eigenvalue "
        "outside the unit circle there. Take fewer terms, add damping, or use solver='gmres'"
    )


def _warn_of_divergence(
    operator: Operator, term: Float[Tensor, "k d"], total: Float[Tensor, "k d"], terms: int
) -> None:
    """A sum whose last term is twice their average, and more, is not near its limit, or has none."""
    last, whole = term.norm(dim=1), total.norm(dim=1)
    large = terms * last.double() > 2 * whole.double()
    if terms >= _CUT_OFF and large.any():
        k = int(large.nonzero()[0])
        warn(
            f"AID's series does not converge at {operator.where(large)}: the last of its {terms} terms has norm "
            f"{last[k]:.2g}, their sum {whole[k]:.2g}. The scores depend on the number of terms: add damping, take a "
            'smaller scale, or solver="gmres" for the limit; and ask gi.validate(trace, metric, scores)'
        )
