"""All ratios, in the order of the report."""

from bench import dcgan, fcgan, lqgan, softmax, solvers
from bench.ratios import Case

__all__ = ["cases"]


def cases(preset: str, device: str) -> tuple[Case, ...]:
    return (*lqgan.CASES, *fcgan.CASES, *dcgan.cases(preset, device), *softmax.cases(preset), *solvers.CASES)
