"""All ratios, in the order of the report."""

from bench import fcgan, lqgan
from bench.ratios import Case

__all__ = ["CASES"]

CASES: tuple[Case, ...] = (*lqgan.CASES, *fcgan.CASES)
