"""Metrics: differentiable scalars of the players, and measures that only evaluate."""

from gan_influence.metrics.average_loss import AverageLoss
from gan_influence.metrics.discriminator_loss import DiscriminatorLoss
from gan_influence.metrics.frechet import FrechetDistance
from gan_influence.metrics.inception import InceptionScore
from gan_influence.metrics.likelihood import AverageLogLikelihood
from gan_influence.metrics.metric import Metric, measure
from gan_influence.metrics.neighbours import PrecisionRecallDensityCoverage, precision_recall_density_coverage
from gan_influence.metrics.player_loss import PlayerLoss

__all__ = [
    "AverageLogLikelihood",
    "AverageLoss",
    "DiscriminatorLoss",
    "FrechetDistance",
    "InceptionScore",
    "Metric",
    "PlayerLoss",
    "PrecisionRecallDensityCoverage",
    "measure",
    "precision_recall_density_coverage",
]
