"""AverageLogLikelihood of clusters many bandwidths apart, and in fewer digits than float64."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm
from support.games import normal, relative_error
from torch import nn

import gan_influence as gi
from gan_influence.metrics import log_sums
from gan_influence.metrics.log_sums import lie_apart, mean_log_sum
from gan_influence.metrics.metric import metric_gradients, metric_values

DTYPES = {"float32": torch.float32, "float64": torch.float64}
each_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
each_path = pytest.mark.parametrize("blocks", [False, True], ids=["at-once", "blocks"])


@pytest.fixture
def evaluate(monkeypatch, blocks):
    if blocks:
        monkeypatch.setattr(log_sums, "_AT_ONCE", 0)
        monkeypatch.setattr(log_sums, "_BLOCK", 300)


def clusters(seed, dtype, *centers, dimension=2, width=1.0):
    """Twenty points around each of the centers on the diagonal, rounded to the type."""
    points = [width * normal(seed + k, 20, dimension) + center for k, center in enumerate(centers)]
    return torch.cat(points).to(dtype)


def expected(reference, generated, bandwidth):
    """Value, and slope at each generated point, from SciPy and differences in float64."""
    x, g = reference.double().numpy(), generated.double().numpy()
    logs = norm.logpdf(x[:, None], g[None], bandwidth).sum(-1)
    log_sum = logsumexp(logs, axis=1, keepdims=True)
    pulls = np.exp(logs - log_sum)[:, :, None] * (x[:, None] - g[None]) / bandwidth**2
    return log_sum.mean() - np.log(len(g)), torch.from_numpy(pulls.mean(0))


class Points(nn.Module):
    """Generates its parameters."""

    def __init__(self, points):
        super().__init__()
        self.points = nn.Parameter(points.clone())

    def forward(self, latents):
        return self.points + 0 * latents


def measured(reference, generated, bandwidth):
    """Value and slope, of one model and of three that differ."""
    metric = gi.metrics.AverageLogLikelihood(reference, torch.zeros_like(generated), bandwidth)
    game = gi.Game(Points(generated), nn.Linear(generated.shape[1], 1).to(generated.dtype))
    thetas = game.theta().repeat(3, 1)
    thetas[1] += 0.25 * bandwidth
    values, slopes = metric_values(metric, game, thetas), metric_gradients(metric, game, thetas)
    return values, slopes[:, : generated.numel()].reshape(3, *generated.shape)


CLUSTERS = {
    "thousand": ((0, 1e3), 1.0, 2),
    "ten-thousand": ((0, 1e4), 1.0, 2),
    "three": ((-3e4, 0, 2e4), 1.0, 2),
    "one-dimension": ((0, 3e3, 1e5), 1.0, 1),
    "narrow-kernels": ((-0.5, 0.5), 1e-4, 5),
    "far-from-the-origin": ((1e4, 1.1e4), 0.5, 2),
}


@each_path
@each_dtype
@pytest.mark.parametrize(("centers", "bandwidth", "dimension"), CLUSTERS.values(), ids=CLUSTERS)
def test_clusters_many_bandwidths_apart_lose_no_digits(evaluate, dtype, centers, bandwidth, dimension):
    reference = clusters(1, dtype, *centers, dimension=dimension, width=bandwidth)
    generated = clusters(7, dtype, *centers, dimension=dimension, width=bandwidth)
    values, slopes = measured(reference, generated, bandwidth)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-9
    value, slope = expected(reference, generated, bandwidth)
    for k in (0, 2):
        assert values[k].item() == pytest.approx(value, rel=tolerance)
        assert relative_error(slopes[k].double(), slope) < tolerance
    moved = generated + 0.25 * bandwidth
    value, slope = expected(reference, moved, bandwidth)
    assert values[1].item() == pytest.approx(value, rel=tolerance)
    assert relative_error(slopes[1].double(), slope) < tolerance
    assert values.dtype == slopes.dtype == dtype


@each_path
def test_in_float64_even_a_hundred_million_bandwidths_do_no_harm(evaluate):
    centers = (0, 2.0**27)
    reference, generated = clusters(1, torch.float64, *centers), clusters(7, torch.float64, *centers)
    values, slopes = measured(reference, generated, 1.0)
    value, slope = expected(reference, generated, 1.0)
    assert values[0].item() == pytest.approx(value, rel=1e-7)
    assert relative_error(slopes[0], slope) < 1e-6


@each_path
@each_dtype
@pytest.mark.parametrize("distance", [0.0, 1e3, 1e4])
def test_second_derivatives_are_those_of_the_direct_formula(evaluate, dtype, distance):
    x, g = clusters(1, dtype, 0, distance), clusters(7, dtype, 0, distance)
    direction = normal(3, *g.shape).to(dtype)

    def product(of):
        leaf = g.clone().requires_grad_()
        (slope,) = torch.autograd.grad(of(leaf), leaf, create_graph=True)
        return torch.autograd.grad((slope * direction).sum(), leaf)[0].double()

    def by_difference(g):
        return (-0.5 * (x.double()[:, None] - g.double()).square().sum(2)).logsumexp(1).mean()

    apart = lie_apart(x.double(), 1.0)
    assert relative_error(product(lambda g: mean_log_sum(x, g, 1.0, apart)), product(by_difference)) < 1e-6


@each_path
def test_rows_that_lie_apart_have_exact_derivatives(evaluate):
    x, g = normal(1, 13, 2), normal(3, 4, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda g: 3 * mean_log_sum(x, g, 1.7, True), g)
    assert torch.autograd.gradgradcheck(lambda g: 3 * mean_log_sum(x, g, 1.7, True), g)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_in_half_precision_only_the_result_is_rounded(dtype):
    reference, generated = clusters(1, dtype, 0, 100), clusters(7, dtype, 0, 100)
    values, _ = measured(reference, generated, 1.0)
    value, _ = expected(reference, generated, 1.0)
    assert values.dtype == dtype
    assert values[0].item() == pytest.approx(value, rel=torch.finfo(dtype).eps)


ROWS = torch.zeros(3, 1)
OUT_OF_RANGE = {
    "tiny": (ROWS.double(), 1e-200, r"between 7.5e-155 and 1.3e\+154 for rows of torch.float64"),
    "huge": (ROWS.double(), 1e200, r"between 7.5e-155 and 1.3e\+154 for rows of torch.float64"),
    "smallest": (ROWS.double(), 5e-324, r"got 5e-324: measure the rows in other units"),
    "float32-tiny": (ROWS, 1e-30, r"between 5.4e-20 and 1.8e\+19 for rows of torch.float32, .*got 1e-30"),
    "float32-huge": (ROWS, 1e30, r"between 5.4e-20 and 1.8e\+19 for rows of torch.float32, .*got 1e\+30"),
    "half": (ROWS.half(), 1e-3, r"between 0.0039 and 2.6e\+02 for rows of torch.float16"),
    "zero": (ROWS, 0.0, r"bandwidth must be a finite number above 0, got 0.0"),
    "negative": (ROWS, -1.0, r"bandwidth must be a finite number above 0, got -1.0"),
    "infinite": (ROWS, float("inf"), r"bandwidth must be a finite number above 0, got inf"),
    "nan": (ROWS, float("nan"), r"bandwidth must be a finite number above 0, got nan"),
    "bool": (ROWS, True, r"bandwidth must be a finite number above 0, got True"),
}


@pytest.mark.parametrize(("rows", "bandwidth", "message"), OUT_OF_RANGE.values(), ids=OUT_OF_RANGE)
def test_a_bandwidth_out_of_range_is_refused_with_the_range(rows, bandwidth, message):
    with pytest.raises(ValueError, match=message):
        gi.metrics.AverageLogLikelihood(rows, rows, bandwidth)


@pytest.mark.parametrize("bandwidth", [1e-150, 1e-100, 1e100, 1e150])
def test_a_bandwidth_within_the_range_gives_a_finite_value(bandwidth):
    rows = bandwidth * normal(1, 40, 3)
    values, slopes = measured(rows, rows.flip(1), bandwidth)
    value, slope = expected(rows / bandwidth, rows.flip(1) / bandwidth, 1.0)
    assert values[0].item() == pytest.approx(value - 3 * np.log(bandwidth), rel=1e-12)
    assert relative_error(slopes[0] * bandwidth, slope) < 1e-9
