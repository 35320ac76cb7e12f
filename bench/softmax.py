"""Ratios on a supervised classifier, softmax regression: ten classes, 1 000 rows in minibatches of 100, float64.

The losses of many test points are as many cotangents, which share a sweep but no matrix product of its own: a step back
multiplies each of them with the batch. So many cost less than as many sweeps, by how much depends on how far a sweep
of one is from being matrix products alone.
"""

from __future__ import annotations

from functools import cache, partial

import torch
from torch import Tensor, nn

import gan_influence as gi
from bench.ratios import Call, Case

__all__ = ["cases", "trained"]

ROWS, BATCH, CLASSES, STEPS, POINTS = 1000, 100, 10, 100, 1000
WIDTHS = {"smoke": (64,), "standard": (64, 784)}  # inputs: digits of 8 and of 28 pixels


@cache
def trained(device: str, width: int, points: int = POINTS, steps: int = STEPS) -> tuple[gi.Trace, Tensor, Tensor]:
    """A run on noise, and test points with their labels."""
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(ROWS + points, width, generator=random, dtype=torch.float64)
    labels = torch.randint(CLASSES, (ROWS + points,), generator=random)
    model = nn.Linear(width, CLASSES, dtype=torch.float64)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    game, data = gi.Game(None, model, loss="cross_entropy"), (inputs[:ROWS], labels[:ROWS])
    trace = gi.train(game, data, gi.Minibatches(ROWS, BATCH, seed=0), steps, gi.SGD(0.05), device=device)
    return trace, inputs[ROWS:].to(device), labels[ROWS:].to(device)


def many_points_against_one(device: str, width: int) -> tuple[Call, Call, float]:
    """Scores for the losses of 1 000 test points in one call against those for the loss of one."""
    trace, inputs, labels = trained(device, width)
    many = gi.metrics.AverageLoss(inputs, labels, each=True)
    one = gi.metrics.AverageLoss(inputs[:1], labels[:1])
    gi.itd(trace, many)
    gi.itd(trace, one)
    return lambda: gi.itd(trace, many), lambda: gi.itd(trace, one), 1.0


def adjoint_against_training_step(device: str, width: int) -> tuple[Call, Call, float]:
    """The sweep for one test point against the training run."""
    trace, inputs, labels = trained(device, width)
    metric = gi.metrics.AverageLoss(inputs[:1], labels[:1])
    gi.itd(trace, metric)
    return lambda: gi.itd(trace, metric), lambda: gi.retrain(trace, []), 1.0


def cases(preset: str) -> tuple[Case, ...]:
    return tuple(
        Case(name, f"softmax of {(width + 1) * CLASSES} parameters", limit, partial(prepare, width=width))
        for width in WIDTHS[preset]
        for name, limit, prepare in (
            ("itd_step / training_step", ("<=", 3.0), adjoint_against_training_step),
            (f"itd_of_{POINTS}_points / itd_of_1_point", None, many_points_against_one),
        )
    )
