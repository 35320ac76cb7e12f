"""Solvers of AID's equations side by side: ``python -m bench.solvers``. Products and time to a relative error of 1e-6.

Each solver is given ever smaller tolerances, or ever more steps, until its solutions for the gradients of ten test
losses are so near to those with a matrix, made of products and factored. What counts is the first run that gets there,
the power iterations with which some begin included.

Two problems: softmax regression, where the matrix is the Hessian, and a perceptron with its Gauss-Newton matrix.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gan_influence as gi
from bench.ratios import Call, Case
from gan_influence.curvature import Continuation, ShiftedField
from gan_influence.gauss_newton import curved
from gan_influence.itd import gradients_of
from reports.shared.provenance import program, provenance
from reports.shared.store import ensure_writable, write_json

__all__ = ["CASES", "PROBLEMS", "Problem", "compare", "operator_of"]

TARGET = 1e-6  # relative error, the largest over the right-hand sides
ROWS, POINTS, STEPS, CLASSES = 1000, 10, 100, 10
LARGEST_COUNT = 2**17  # of terms or steps, of those that are given a number of them
TOLERANCES = [10.0**-k for k in range(5, 13)]
REPEATS = {"smoke": 1, "standard": 3}


@dataclass(frozen=True)
class Problem:
    """A classifier on noise: how many numbers an input has, hidden units (0: softmax regression), l2, and curvature."""

    width: int
    hidden: int
    l2: float
    curvature: str


PROBLEMS = {
    "softmax, l2 = .01": Problem(64, 0, 0.01, "hessian"),
    "softmax, l2 = .0001": Problem(64, 0, 0.0001, "hessian"),
    "perceptron, l2 = .001": Problem(16, 8, 0.001, "gauss_newton"),
}


@cache
def operator_of(problem: Problem, device: str = "cpu") -> tuple[ShiftedField, Tensor]:
    """The equation's matrix, and ten right-hand sides."""
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(ROWS + POINTS, problem.width, generator=random, dtype=torch.float64)
    labels = torch.randint(CLASSES, (ROWS + POINTS,), generator=random)
    sizes = [problem.width, problem.hidden, CLASSES] if problem.hidden else [problem.width, CLASSES]
    layers: list[nn.Module] = []
    for n, m in pairwise(sizes):
        layers += [nn.Linear(n, m, dtype=torch.float64), nn.Tanh()]
    model = nn.Sequential(*layers[:-1])
    for parameter in model.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=random, dtype=torch.float64)
    game = gi.Game(None, model, loss="cross_entropy", l2=problem.l2)
    data = inputs[:ROWS], labels[:ROWS]
    trace = gi.train(game, data, gi.FullBatch(), STEPS, gi.SGD(0.1), device=device)
    metric = gi.metrics.AverageLoss(inputs[ROWS:].to(device), labels[ROWS:].to(device), each=True)
    theta = trace.theta()
    field = ShiftedField(Continuation(trace), theta, [STEPS], 0.0, curved(trace, problem.curvature, theta[None]))
    return field, gradients_of([metric], trace, [STEPS])[:, 0]


def settings(largest: float) -> dict[str, Iterator[gi.Solver]]:
    """Each solver, ever stricter; the series has the scale that a learning rate of 1 over the largest curvature is."""
    solvers = gi.solvers
    doubling = [2**k for k in range(5, LARGEST_COUNT.bit_length())]
    return {
        "CG": (solvers.CG(10_000, tolerance) for tolerance in TOLERANCES),
        "GMRES": (solvers.GMRES(10_000, tolerance) for tolerance in TOLERANCES),
        "normal equations": (solvers.NormalEquations(50_000, tolerance) for tolerance in TOLERANCES),
        "momentum": (solvers.Momentum(LARGEST_COUNT, None, tolerance=tolerance) for tolerance in TOLERANCES),
        "LiSSA": (solvers.LiSSA(tolerance=tolerance) for tolerance in TOLERANCES),
        "Neumann": (solvers.Neumann(terms, scale=1 / largest) for terms in doubling),
    }


def compare(problem: Problem, repeats: int) -> Iterator[dict[str, Any]]:
    """A row for each solver: products, seconds, and the relative error of the first run that is near enough."""
    operator, b = operator_of(problem)
    eye = torch.eye(b.shape[1], dtype=b.dtype)
    begun = time.perf_counter()
    matrix = operator.transpose_product(eye)  # row i is A^T e_i, so this is A
    exact = torch.linalg.solve(matrix.T, b.T).T
    seconds = time.perf_counter() - begun
    curvature = torch.linalg.eigvalsh(matrix)
    shared = {"parameters": b.shape[1], "condition": float(curvature[-1] / curvature[0])}
    yield {"solver": "matrix", "products": b.shape[1], "seconds": seconds, "error": 0.0, **shared}
    for name, ever_stricter in settings(float(curvature[-1])).items():
        yield {"solver": name, **_first_near(operator, b, exact, ever_stricter, repeats), **shared}


def _first_near(
    operator: ShiftedField, b: Tensor, exact: Tensor, solvers: Iterator[gi.Solver], repeats: int
) -> dict[str, Any]:
    error, made, products = torch.inf, torch.nan, 0
    for solver in solvers:
        found = solver.solve(operator, b)
        products = found.products
        error = float(((found.x - exact).norm(dim=1) / exact.norm(dim=1)).max())
        if error <= TARGET:
            made = min(_seconds(partial(solver.solve, operator, b)) for _ in range(repeats))
            break
    return {"products": products, "seconds": made, "error": error}


def _seconds(call: Call) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def points_apart_against_together(device: str) -> tuple[Call, Call, float]:
    """CG for each of ten test losses against CG for all of them."""
    operator, b = operator_of(PROBLEMS["softmax, l2 = .01"], device)
    solver = gi.solvers.CG(tolerance=1e-6)
    return (
        lambda: [solver.solve(operator, one[None]) for one in b],
        lambda: solver.solve(operator, b),
        1.0,
    )


def lissa_against_cg(device: str) -> tuple[Call, Call, float]:
    """LiSSA without settings against CG, to the same residual."""
    operator, b = operator_of(PROBLEMS["softmax, l2 = .01"], device)
    return (
        lambda: gi.solvers.LiSSA(tolerance=1e-6).solve(operator, b),
        lambda: gi.solvers.CG(tolerance=1e-6).solve(operator, b),
        1.0,
    )


CASES = (
    Case(
        "cg_of_10_points_apart / cg_of_10_points_together",
        "softmax of 650 parameters",
        None,
        points_apart_against_together,
    ),
    Case("lissa / cg", "softmax of 650 parameters", None, lissa_against_cg),
)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.solvers",
        description="Compare AID's solvers: products and time until all of ten solutions have a relative error of "
        f"{TARGET:g}. Writes solvers.json.",
    )
    parser.add_argument("--preset", choices=tuple(REPEATS), default="standard", help="times: the best of 1, or of 3")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), metavar="DIR", help="where to write")
    arguments = parser.parse_args()
    ensure_writable(arguments.out)
    results: list[dict[str, Any]] = []
    for name, problem in PROBLEMS.items():
        rows = list(compare(problem, REPEATS[arguments.preset]))
        print(f"\n{name}: {rows[0]['parameters']} parameters, condition number {rows[0]['condition']:.3g}")
        print(f"{'':18} {'products':>9} {'seconds':>9} {'error':>9}")
        for row in rows:
            print(f"{row['solver']:18} {row['products']:9} {row['seconds']:9.3f} {row['error']:9.1e}")
            results.append({"problem": name, **row})
    write_json(
        arguments.out / "solvers.json", {"provenance": provenance(program("bench.solvers"), "cpu"), "solvers": results}
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
