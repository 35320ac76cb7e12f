"""The claim itself: the scores rank rows as retraining does."""

from scipy.stats import kendalltau
from support.games import relative_error

import gan_influence as gi


def test_itd_ranks_rows_as_retraining_does():
    data, latents = gi.datasets.normal_1d(80, seed=0), gi.datasets.normal_1d(80, 0.0, seed=1)
    game = gi.Game(*gi.models.lqgan(scale=0.5, shift=0.0, quadratic=0.0, linear=0.0), loss="minimax")
    trace = gi.train(game, data, gi.FullBatch(latents), steps=60, optimizer=gi.SGD(lr=0.05))
    metric = gi.metrics.AverageLogLikelihood(gi.datasets.normal_1d(80, seed=2), gi.datasets.normal_1d(80, 0.0, seed=3))
    scores, truth = gi.itd(trace, metric), gi.counterfactual(trace, metric, [[j] for j in range(80)])
    assert kendalltau(scores.numpy(), truth.numpy()).statistic >= 0.99
    assert relative_error(scores, truth) < 0.05


def test_aid_ranks_rows_as_retraining_does_at_a_regularised_equilibrium():
    data, latents = gi.datasets.normal_1d(40, seed=0), gi.datasets.normal_1d(40, 0.0, seed=1)
    game = gi.Game(*gi.models.lqgan(scale=0.5, shift=0.0, quadratic=0.0, linear=0.0), l2=(0.5, 0.5))
    trace = gi.train(game, data, gi.FullBatch(latents), steps=400, optimizer=gi.SGD(lr=0.1))
    metric = gi.metrics.AverageLogLikelihood(gi.datasets.normal_1d(40, seed=2), gi.datasets.normal_1d(40, 0.0, seed=3))
    scores, truth = gi.aid(trace, metric, solver="gmres"), gi.counterfactual(trace, metric, [[j] for j in range(40)])
    assert kendalltau(scores.numpy(), truth.numpy()).statistic >= 0.98
