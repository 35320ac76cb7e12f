"""Ratios on the LQGAN of TNNLS Table V: 1 000 rows, 1 000 latents, float64."""

from __future__ import annotations

from functools import cache, partial

import torch
from torch import Tensor

import gan_influence as gi
from bench.metrics import mean_logit
from bench.ratios import Call, Case
from gan_influence.adjoint import linearise
from gan_influence.batch import Inputs
from gan_influence.metrics.metric import Measurable, metric_gradients
from gan_influence.replay.recorded import Recorded, RecordedLinearisation

__all__ = ["CASES"]

ROWS, STEPS, REMOVALS, SINGLES = 1000, 1000, 100, 4
RUNS, ROWS_OF_RUN, REMOVALS_OF_RUN = 10, 100, 10


@cache
def _trained(device: str, rows: int = ROWS, seed: int = 0) -> tuple[gi.Trace, gi.metrics.Metric]:
    normal = gi.datasets.normal_1d
    data, latents = normal(rows, seed=4 * seed), normal(rows, mean=0.0, seed=4 * seed + 1)
    reference, of_metric = normal(rows, seed=4 * seed + 2), normal(rows, mean=0.0, seed=4 * seed + 3)
    metric = gi.metrics.AverageLogLikelihood(reference, of_metric)
    game = gi.Game(*gi.models.lqgan(seed=seed))
    return gi.train(game, data, gi.FullBatch(latents), STEPS, gi.SGD(lr=0.01), device=device), metric


def one_by_one_against_batch(device: str) -> tuple[Call, Call, float]:
    """100 removals: a loop over ``gi.retrain`` (a few of them timed, times the rest) against ``gi.counterfactual``."""
    trace, metric = _trained(device)

    def one_by_one() -> list[Tensor]:
        return [metric.value(gi.retrain(trace, [row]).players()) for row in range(SINGLES)]

    def batch() -> Tensor:
        return gi.counterfactual(trace, metric, [[row] for row in range(REMOVALS)])

    return one_by_one, batch, REMOVALS / SINGLES


def runs_apart_against_together(device: str) -> tuple[Call, Call, float]:
    """Ten runs of 100 rows, 10 removals each: ``gi.counterfactual`` run after run against ``gi.counterfactuals``."""
    traces, metrics = zip(*(_trained(device, ROWS_OF_RUN, seed) for seed in range(RUNS)), strict=True)
    removals = [[row] for row in range(REMOVALS_OF_RUN)]
    return (
        lambda: [gi.counterfactual(*run, removals) for run in zip(traces, metrics, strict=True)],
        lambda: gi.counterfactuals(traces, metrics, [removals] * RUNS),
        1.0,
    )


def all_rows_against_one(device: str) -> tuple[Call, Call, float]:
    """Scores of all rows, ``gi.itd``, against TNNLS Alg. 1 as it is printed, for one row."""
    trace, metric = _trained(device)
    return lambda: gi.itd(trace, metric), lambda: _itd_of_one_row(trace, metric, 0), 1.0


def adjoint_against_training_step(device: str) -> tuple[Call, Call, float]:
    """The sweep against the training run that it differentiates."""
    trace, metric = _trained(device)
    return lambda: gi.itd(trace, metric), lambda: gi.retrain(trace, []), 1.0


def metrics_of(device: str) -> tuple[gi.Trace, list[Measurable]]:
    """A run, and three metrics: one that looks at the generator, two that look at both players."""
    trace, metric = _trained(device)
    reference, latents = (gi.datasets.normal_1d(ROWS, seed=seed).to(device) for seed in (2, 3))
    return trace, [metric, gi.metrics.DiscriminatorLoss(reference, latents), mean_logit((1,))]


def several_metrics_against_one(device: str) -> tuple[Call, Call, float]:
    """Three metrics in one sweep against one of them."""
    trace, metrics = metrics_of(device)
    return lambda: gi.itd(trace, metrics), lambda: gi.itd(trace, metrics[0]), 1.0


def recorded_against_eager(device: str) -> tuple[Call, Call, float]:
    """An adjoint step called as it is against its recording."""
    trace, _ = _trained(device)
    state, inputs = trace.state(0), trace.inputs(0)
    cotangent = torch.ones_like(state.moving)
    eager = partial(linearise, trace.game, trace.updates, trace.updates.phases(0), 0.0)
    recorded = RecordedLinearisation(eager)
    for _ in range(100):
        recorded.pull_back(state, inputs, cotangent_shape=cotangent.shape)(cotangent)
    return (
        lambda: [eager(state, inputs)[1](cotangent) for _ in range(200)],
        lambda: [recorded.pull_back(state, inputs, cotangent_shape=cotangent.shape)(cotangent) for _ in range(200)],
        1.0,
    )


def _itd_of_one_row(trace: gi.Trace, metric: gi.metrics.Metric, row: int) -> float:
    """TNNLS Alg. 1, lines 1 to 6, for the row j: one product with ``J^T`` and one row's gradient a step."""
    game, eta = trace.game, 0.01

    def step(u: Tensor, theta: Tensor, batch: Inputs) -> tuple[Tensor, Tensor]:
        phi, psi = game.leaves(theta)
        field, _ = game.field((phi, psi), batch, create_graph=True)
        product = torch.autograd.grad(field, (phi, psi), game.split(u), materialize_grads=True)
        rows = batch.rows
        cost = game.loss.real(game.discriminator.at(psi)(rows[row : row + 1]).reshape(-1)).sum()
        (gradient,) = torch.autograd.grad(cost, psi)
        change = eta / len(rows) * (gradient * game.split(u)[1]).sum()
        return u - eta * torch.cat(product), change.detach()

    recorded = Recorded(step)
    u, score = metric_gradients(metric, game, trace.theta()[None])[0], 0.0
    for t in reversed(range(trace.steps)):
        u, change = recorded(u, trace.theta(t), trace.inputs(t))
        score += float(change)
    return score


CASES = (
    Case("retraining_one_by_one / retraining_as_a_batch", "lqgan", (">=", 20.0), one_by_one_against_batch),
    Case("runs_apart / runs_together", "lqgan", (">=", 3.0), runs_apart_against_together),
    Case("itd_all_rows / itd_one_row", "lqgan", ("<=", 1.1), all_rows_against_one),
    Case("itd_step / training_step", "lqgan", ("<=", 3.0), adjoint_against_training_step),
    Case("itd_of_3_metrics / itd_of_1_metric", "lqgan", ("<=", 2.0), several_metrics_against_one),
    Case("eager_adjoint_step / recorded_adjoint_step", "lqgan", (">=", 1.5), recorded_against_eager),
)
