"""Errors against bounds, over many cases, and what they settle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from verification.dense_lqgan import Array
from verification.ledger import Curve, Number, Outcome, Plot

__all__ = ["ALLOWANCE", "CLEAR", "ENOUGH", "Tally", "mended", "never_violated", "settled"]

CLEAR = 100.0
"""An error is clear of rounding from that many times what rounding may contribute."""

ENOUGH = 10
"""Cases clear of rounding below which a bound is not tested."""

ALLOWANCE = "1e-13 (T + 1)(1 + max|theta|) per case"


@dataclass
class Tally:
    """Measured errors against a bound, over all cases, and the ranges of the constants that the bound was given."""

    measured: list[float] = field(default_factory=list)
    bound: list[float] = field(default_factory=list)
    clear: list[bool] = field(default_factory=list)
    violations: int = 0
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, measured: Array | float, bound: Array | float, allowance: float) -> None:
        """Compare, with an allowance for rounding; a bound that is not a number is violated."""
        errors, limits = (a.ravel() for a in np.broadcast_arrays(np.asarray(measured), np.asarray(bound)))
        self.violations += int(np.sum(~(errors <= limits + allowance)))
        self.measured += errors.tolist()
        self.bound += limits.tolist()
        self.clear += (errors > CLEAR * allowance).tolist()

    def add_exact(self, measured: Fraction, bound: Fraction) -> None:
        """The same in rational numbers, without any allowance."""
        self.violations += measured > bound
        self.measured.append(float(measured))
        self.bound.append(float(bound))
        self.clear.append(measured > 0)

    def note(self, **constants: Array | float) -> None:
        """Widen the ranges by these constants."""
        for name, value in constants.items():
            low, high = float(np.min(value)), float(np.max(value))
            before = self.ranges.get(name, (low, high))
            self.ranges[name] = min(low, before[0]), max(high, before[1])

    @property
    def looseness(self) -> Array:
        """Measured / bound where the measured error is clear of rounding."""
        clear = np.array(self.clear, dtype=bool)
        with np.errstate(divide="ignore"):
            return np.array(self.measured)[clear] / np.array(self.bound)[clear]

    @property
    def largest(self) -> float:
        """The largest measured / bound; infinite where a bound of 0 is violated."""
        return float(self.looseness.max(initial=0.0))

    def verdict(self, floor: float) -> str:
        """``refuted`` by a violation, ``not tested`` by too few cases or none near the bound, else ``holds``."""
        if self.violations:
            return "refuted"
        return "holds" if self.looseness.size >= ENOUGH and self.largest >= floor else "not tested"

    def numbers(self, name: str = "") -> dict[str, Number]:
        """Cases, violations, looseness and ranges, for a reader."""
        prefix = f"{name}: " if name else ""
        counted: dict[str, Number] = {
            f"{prefix}cases": len(self.measured),
            f"{prefix}clear of rounding": int(sum(self.clear)),
            f"{prefix}violations": self.violations,
            f"{prefix}median error / bound": float(np.median(self.looseness)) if self.looseness.size else "none",
            f"{prefix}largest error / bound": self.largest,
        }
        return counted | {f"{prefix}{what}": f"{low:.2g} to {high:.2g}" for what, (low, high) in self.ranges.items()}

    def plot(self) -> Plot:
        """Bound against error, a point a case, above the diagonal where the bound holds."""
        pairs = [(m, b) for m, b, c in zip(self.measured, self.bound, self.clear, strict=True) if c and b < 1e6]
        shown = pairs[:: max(len(pairs) // 400, 1)]
        errors, limits = [m for m, _ in shown], [b for _, b in shown]
        ends = [min(errors), max(errors)]
        curves = [Curve("bound", errors, limits, "."), Curve("error itself", ends, ends, "-")]
        return Plot("measured error", "bound", curves)


def settled(tallies: Mapping[str, Tally], floor: float) -> str:
    """The verdict of one bound over several kinds of cases: all must keep it, and one must come near it."""
    verdicts = [tally.verdict(0.0) for tally in tallies.values()]
    if max(tally.largest for tally in tallies.values()) < floor:
        verdicts.append("not tested")
    return next((one for one in ("refuted", "not tested") if one in verdicts), "holds")


def never_violated(tallies: Mapping[str, Tally], floor: float, plot: Plot | None = None, each: bool = False) -> Outcome:
    """``holds`` where no case violates the bound and an error is at least ``floor`` times the bound.

    The tallies hold several kinds of cases of one bound; with ``each`` they are bounds of their own, and ``largest`` is
    that of the one which is tested least.
    """
    numbers: dict[str, Number] = {}
    for name, tally in tallies.items():
        numbers |= tally.numbers(name if len(tallies) > 1 else "")
    if each:
        verdicts = [tally.verdict(floor) for tally in tallies.values()]
        verdict = next((one for one in ("refuted", "not tested") if one in verdicts), "holds")
        largest = min(tally.largest for tally in tallies.values())
    else:
        verdict = settled(tallies, floor)
        largest = max(tally.largest for tally in tallies.values())
    return Outcome(verdict, largest, "at most 1", ALLOWANCE, numbers=numbers, plot=plot, largest=largest, floor=floor)


def mended(witness_fails: bool, tallies: Mapping[str, Tally], floor: float) -> str:
    """The verdict of a bound whose printed form meets its witness, and whose amended form met all cases."""
    amended = settled(tallies, floor)
    if amended != "holds":
        return amended
    return "corrected" if witness_fails else "holds"
