"""Generation metrics: differentiable scalars of the players."""

from gan_influence.metrics.likelihood import AverageLogLikelihood
from gan_influence.metrics.metric import Metric

__all__ = ["AverageLogLikelihood", "Metric"]
