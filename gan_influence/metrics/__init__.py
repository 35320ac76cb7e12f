"""Metrics: differentiable scalars of the players."""

from gan_influence.metrics.average_loss import AverageLoss
from gan_influence.metrics.discriminator_loss import DiscriminatorLoss
from gan_influence.metrics.likelihood import AverageLogLikelihood
from gan_influence.metrics.metric import Metric

__all__ = ["AverageLogLikelihood", "AverageLoss", "DiscriminatorLoss", "Metric"]
