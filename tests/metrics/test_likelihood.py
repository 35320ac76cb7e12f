"""AverageLogLikelihood against SciPy and scikit-learn."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import gaussian_kde, norm
from sklearn.neighbors import KernelDensity
from support.games import GAMES, average_log_likelihood, normal, relative_error
from torch import nn

import gan_influence as gi
from gan_influence.metrics.metric import metric_gradients

each_setting = pytest.mark.parametrize(
    ("dimension", "bandwidth"), [(d, h) for d in (1, 2, 5) for h in (0.3, 1.0, 2.5)], ids=str
)


class Identity(nn.Module):
    """Generates its latents, moved by a parameter."""

    def __init__(self, dimension):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(dimension, dtype=torch.float64))

    def forward(self, latents):
        return latents + self.shift


def at_identity(metric, data):
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(data[0].numel(), 1)).double()
    game = gi.Game(Identity(data.shape[1:]), discriminator)
    return float(metric(gi.train(game, data, gi.FullBatch(data), 0, gi.SGD(0.1))))


def likelihood(reference, generated, bandwidth):
    return at_identity(gi.metrics.AverageLogLikelihood(reference, generated, bandwidth), reference)


@each_setting
def test_it_equals_scikit_learns_kernel_density(dimension, bandwidth):
    reference, generated = normal(1, 40, dimension, mean=0.5), normal(2, 30, dimension)
    density = KernelDensity(bandwidth=bandwidth, rtol=0, atol=0).fit(generated.numpy())
    expected = density.score(reference.numpy()) / len(reference)
    assert likelihood(reference, generated, bandwidth) == pytest.approx(expected, rel=1e-12)


@each_setting
def test_it_equals_scipys_normal_densities(dimension, bandwidth):
    reference, generated = normal(1, 40, dimension, mean=0.5), normal(2, 30, dimension)
    logs = norm.logpdf(reference.numpy()[:, None], generated.numpy()[None], bandwidth).sum(-1)
    expected = (logsumexp(logs, axis=1) - np.log(30)).mean()
    assert likelihood(reference, generated, bandwidth) == pytest.approx(expected, rel=1e-12)


def test_it_equals_scipys_gaussian_kde_in_one_dimension():
    reference, generated = normal(1, 40, 1, mean=0.5), normal(2, 30, 1)
    density = gaussian_kde(generated[:, 0].numpy(), bw_method=0.7 / generated.std().item())
    expected = density.logpdf(reference[:, 0].numpy()).mean()
    assert likelihood(reference, generated, 0.7) == pytest.approx(expected, rel=1e-12)


def test_rows_of_any_shape_are_flattened():
    reference, generated = normal(1, 20, 2, 3), normal(2, 10, 2, 3)
    expected = likelihood(reference.reshape(20, 6), generated.reshape(10, 6), 0.9)
    assert likelihood(reference, generated, 0.9) == pytest.approx(expected, rel=1e-14)


def test_data_far_from_the_origin_lose_no_digits():
    reference, generated = normal(1, 40, 2).float().double(), normal(2, 30, 2).float().double()
    far = 2.0**20  # exactly representable sums
    expected = likelihood(reference, generated, 0.5)
    assert likelihood(reference + far, generated + far, 0.5) == pytest.approx(expected, rel=1e-12)


def test_generated_points_far_from_the_reference_give_a_finite_value_and_slope():
    reference, generated = normal(1, 40, 2), normal(2, 30, 2) + 500
    logs = norm.logpdf(reference.numpy()[:, None], generated.numpy()[None]).sum(-1)
    expected = (logsumexp(logs, axis=1) - np.log(30)).mean()
    assert likelihood(reference, generated, 1.0) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("make", GAMES.values(), ids=GAMES)
def test_its_gradient_is_that_of_the_direct_formula_and_of_central_differences(make):
    problem = make()
    trace, theta = problem.train(0), problem.start().requires_grad_()
    (slope,) = metric_gradients(problem.metric(), trace.game, trace.theta()[None])
    assert relative_error(slope, torch.autograd.grad(average_log_likelihood(problem, theta), theta)[0]) < 1e-12
    direction, h = normal(5, len(slope)), 1e-4
    with torch.no_grad():
        ends = [average_log_likelihood(problem, theta + s * h * direction) for s in (1, -1)]
    assert float(slope @ direction) == pytest.approx(float(ends[0] - ends[1]) / (2 * h), rel=1e-6)


def test_the_metric_of_a_trace_is_measured_at_its_end():
    problem = GAMES["lqgan"]()
    trace = problem.train(7)
    value = problem.metric()(trace)
    assert value.ndim == 0
    assert not value.requires_grad
    assert float(value) == pytest.approx(float(average_log_likelihood(problem, trace.theta(7))), rel=1e-13)
