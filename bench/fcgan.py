"""Ratios on the FCGAN of ICLR 5.1: 10 000 rows in minibatches of 100, non-saturating loss, float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

import gan_influence as gi
from bench.metrics import mean_logit
from bench.ratios import Call, Case
from gan_influence.metrics.metric import Measurable
from gan_influence.schedules import Schedule

__all__ = ["BATCH", "CASES", "LATENT", "ROWS", "trained", "wgan_gp"]

ROWS, BATCH, LATENT, STEPS = 10_000, 100, (10,), 1000  # recording takes the time of 100 eager steps
REMOVALS, SINGLES, LAST = 200, 2, 100
ROWS_OF_METRIC = 200
CYCLE = ["discriminator"] * 5 + ["generator"]


def trained(
    device: str, schedule: Schedule, steps: int, memory: str | gi.Checkpoint
) -> tuple[gi.Trace, gi.metrics.Metric]:
    """A run, and a metric of few rows: what is measured is training."""
    game = gi.Game(*gi.models.fcgan(form="code", seed=0), loss="non_saturating")
    data, optimizer = gi.datasets.normal_2d(ROWS, seed=0), gi.SGD(lr=1e-3)
    return gi.train(game, data, schedule, steps, optimizer, memory=memory, device=device), _metric()


def _metric() -> gi.metrics.Metric:
    return gi.metrics.AverageLogLikelihood(gi.datasets.normal_2d(ROWS_OF_METRIC, seed=1), _latents_of_metric())


def _latents_of_metric() -> Tensor:
    return torch.randn(ROWS_OF_METRIC, *LATENT, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@cache
def _trained(device: str, memory: str | gi.Checkpoint = "full") -> tuple[gi.Trace, gi.metrics.Metric]:
    return trained(device, gi.Minibatches(ROWS, BATCH, LATENT, seed=0), STEPS, memory)


@cache
def wgan_gp(device: str, steps: int = STEPS) -> tuple[gi.Trace, gi.metrics.Metric]:
    """Five steps of the critic to one of the generator, with a gradient penalty, in Adam (Gulrajani et al. 2017)."""
    game = gi.Game(
        *gi.models.fcgan(form="code", seed=0), loss="wasserstein", penalties=[gi.penalties.GradientPenalty(10.0)]
    )
    schedule = gi.Minibatches(ROWS, BATCH, LATENT, noise=_uniform, seed=0)
    data, optimizer = gi.datasets.normal_2d(ROWS, seed=0), gi.Adam(1e-4, betas=(0.0, 0.9))
    return gi.train(game, data, schedule, steps, optimizer, update=CYCLE, device=device), _metric()


def _uniform(rng: np.random.Generator, rows: int) -> np.ndarray:
    return rng.random(rows)


def adjoint_against_training_step(
    device: str, run: Callable[[str], tuple[gi.Trace, gi.metrics.Metric]] = _trained
) -> tuple[Call, Call, float]:
    """The sweep against the training run that it differentiates."""
    trace, metric = run(device)
    return lambda: gi.itd(trace, metric), lambda: gi.retrain(trace, []), 1.0


def metrics_of(device: str) -> tuple[gi.Trace, list[Measurable]]:
    """A run, and three metrics: one that looks at the generator, two that look at both players."""
    trace, metric = _trained(device)
    reference, latents = gi.datasets.normal_2d(ROWS_OF_METRIC, seed=1), _latents_of_metric()
    return trace, [metric, gi.metrics.DiscriminatorLoss(reference.to(device), latents.to(device)), mean_logit(LATENT)]


def several_metrics_against_one(device: str) -> tuple[Call, Call, float]:
    """Three metrics in one sweep against one of them."""
    trace, metrics = metrics_of(device)
    return lambda: gi.itd(trace, metrics), lambda: gi.itd(trace, metrics[0]), 1.0


def one_by_one_against_batch(device: str) -> tuple[Call, Call, float]:
    """200 removals over the last epoch: a loop over ``gi.retrain`` against ``gi.counterfactual``.

    A few of the loop are timed, times the rest. The batch also gains from starting each retraining at the step that
    uses its row, half an epoch on average.
    """
    trace, metric = _trained(device)
    removed = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))[:REMOVALS].tolist()

    def one_by_one() -> list[Tensor]:
        return [metric.value(gi.retrain(trace, [row], LAST).players()) for row in removed[:SINGLES]]

    def batch() -> Tensor:
        return gi.counterfactual(trace, metric, [[row] for row in removed], LAST)

    return one_by_one, batch, REMOVALS / SINGLES


def checkpointed_against_full(device: str, keep_graphs: bool) -> tuple[Call, Call, float]:
    """The sweep that replays segments of about sqrt(T) steps against the one that remembers every state."""
    trace, metric = _trained(device, gi.Checkpoint(keep_graphs=keep_graphs))
    remembered, _ = _trained(device)
    return lambda: gi.itd(trace, metric), lambda: gi.itd(remembered, metric), 1.0


CASES = (
    Case("retraining_one_by_one / retraining_as_a_batch", "fcgan", (">=", 5.0), one_by_one_against_batch),
    Case("itd_step / training_step", "fcgan", ("<=", 3.0), adjoint_against_training_step),
    Case(
        "itd_step_with_gradient_penalty / training_step_with_gradient_penalty",
        "fcgan",
        ("<=", 3.2),
        partial(adjoint_against_training_step, run=wgan_gp),
    ),
    Case("itd_of_3_metrics / itd_of_1_metric", "fcgan", ("<=", 3.0), several_metrics_against_one),
    Case(
        "checkpointed_sweep / full_memory_sweep",
        "fcgan",
        ("<=", 1.5),
        partial(checkpointed_against_full, keep_graphs=False),
    ),
    Case(
        "checkpointed_sweep_keeping_graphs / full_memory_sweep",
        "fcgan",
        ("<=", 1.1),
        partial(checkpointed_against_full, keep_graphs=True),
    ),
)
