"""AverageLogLikelihood where the kernels are too many to be held at once."""

import math
import weakref

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.neighbors import KernelDensity
from support.games import GAMES, normal, relative_error, same_bits
from torch.utils._python_dispatch import TorchDispatchMode

from gan_influence.metrics import log_sums
from gan_influence.metrics.log_sums import mean_log_sum
from gan_influence.metrics.metric import metric_gradients, metric_values

X, G = normal(1, 43, 2, mean=0.5), normal(2, 30, 2)
SIZES = {"even": 43 * 30, "uneven": 4 * 30 + 7, "row-by-row": 30, "less-than-a-row": 1}
each_size = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)


@pytest.fixture
def blocks_of(monkeypatch):
    def change(size):
        monkeypatch.setattr(log_sums, "_AT_ONCE", 0)
        monkeypatch.setattr(log_sums, "_BLOCK", size)

    return change


def slope(x, g, precision):
    g = g.clone().requires_grad_()
    return torch.autograd.grad(mean_log_sum(x, g, precision), g)[0]


@each_size
@pytest.mark.parametrize(("dimension", "bandwidth"), [(1, 0.3), (2, 1.0), (5, 2.5)])
def test_the_value_is_scikit_learns_kernel_density(blocks_of, size, dimension, bandwidth):
    blocks_of(size)
    x, g = normal(1, 43, dimension, mean=0.5), normal(2, 30, dimension)
    density = KernelDensity(bandwidth=bandwidth, rtol=0, atol=0).fit(g.numpy())
    expected = density.score(x.numpy()) / 43 + math.log(30) + dimension / 2 * math.log(2 * math.pi * bandwidth**2)
    assert float(mean_log_sum(x, g, 1 / bandwidth**2)) == pytest.approx(expected, rel=1e-12)


@each_size
def test_the_gradient_is_that_of_the_plain_formula(blocks_of, size):
    expected = slope(X, G, 1.7)
    blocks_of(size)
    assert relative_error(slope(X, G, 1.7), expected) < 1e-13


def test_first_and_second_derivatives_are_those_of_finite_differences(blocks_of):
    blocks_of(50)
    g = normal(3, 4, 2).requires_grad_()

    def of(g):
        return 3 * mean_log_sum(X, g, 1.7)  # a cotangent other than 1

    assert torch.autograd.gradcheck(of, g)
    assert torch.autograd.gradgradcheck(of, g)


def test_points_far_apart_give_a_finite_value_and_slope(blocks_of):
    blocks_of(70)
    far = G + 500
    logs = norm.logpdf(X.numpy()[:, None], far.numpy()[None]).sum(-1) + math.log(2 * math.pi)
    assert float(mean_log_sum(X, far, 1.0)) == pytest.approx(logsumexp(logs, axis=1).mean(), rel=1e-12)
    shares = np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
    expected = (shares[:, :, None] * (X.numpy()[:, None] - far.numpy()[None])).mean(0)
    assert relative_error(slope(X, far, 1.0), torch.from_numpy(expected)) < 1e-10


class LargestTensor(TorchDispatchMode):
    """Remembers the largest number of entries that any operation has put out."""

    entries = 0

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        output = operation(*arguments, **(keywords or {}))
        if isinstance(output, torch.Tensor):
            self.entries = max(self.entries, output.numel())
        return output


def test_neither_value_nor_gradient_nor_several_models_hold_more_than_a_block(blocks_of):
    x, g = normal(1, 300, 2), normal(2, 200, 2)
    blocks_of(5000)
    with LargestTensor() as largest:
        slope(x, g, 1.0)
        with torch.no_grad():
            torch.func.vmap(lambda g: mean_log_sum(x, g, 1.0))(torch.stack([g, g + 1, g + 2]))
    assert largest.entries == 5000


def test_each_block_is_forgotten_before_the_next_but_one(blocks_of, monkeypatch):
    blocks_of(100)
    blocks, alive, most = log_sums._blocks, [], []

    def watched(*arguments):
        for block in blocks(*arguments):
            alive.append(weakref.ref(block.kernels))
            most.append(sum(kernels() is not None for kernels in alive))
            yield block

    monkeypatch.setattr(log_sums, "_blocks", watched)
    slope(X, G, 1.0)
    assert len(most) == 2 * math.ceil(43 / 3)  # of value and gradient
    assert max(most) <= 2


def test_the_number_of_kernels_decides():
    at_once, block = log_sums._AT_ONCE, log_sums._BLOCK
    wide = at_once // 64
    with torch.no_grad():
        for rows, expected in ((64, at_once), (65, block)):
            with LargestTensor() as largest:
                mean_log_sum(normal(1, rows, 1), torch.zeros(wide, 1).double(), 1.0)
            assert largest.entries == expected


def test_kernels_that_fit_at_once_keep_the_plain_formulas_bits():
    leaves = [G.clone().requires_grad_() for _ in range(2)]
    exponents = 1.7 * (X @ leaves[0].T - 0.5 * X.square().sum(1, keepdim=True) - 0.5 * leaves[0].square().sum(1))
    values = exponents.logsumexp(1).mean(), mean_log_sum(X, leaves[1], 1.7)
    slopes = [torch.autograd.grad(value, leaf)[0] for value, leaf in zip(values, leaves, strict=True)]
    assert same_bits(values[0].detach(), values[1].detach())
    assert same_bits(*slopes)


@pytest.mark.parametrize("make", GAMES.values(), ids=GAMES)
def test_the_metric_of_a_game_does_not_depend_on_the_blocks(blocks_of, make):
    problem = make()
    metric, game, theta = problem.metric(), problem.game(), problem.start()
    thetas = torch.stack([theta + 0.1 * k for k in range(6)])  # more than metric_values takes at once
    values, gradients = metric_values(metric, game, thetas), metric_gradients(metric, game, thetas)
    blocks_of(25)
    torch.testing.assert_close(metric_values(metric, game, thetas), values, rtol=1e-13, atol=0)
    assert relative_error(metric_gradients(metric, game, thetas), gradients) < 1e-12


def test_either_set_of_points_may_be_batched(blocks_of):
    x, g = normal(1, 2, 43, 2), normal(2, 30, 2, 3)
    expected = [[float(mean_log_sum(one, other, 1.7)) for other in g.unbind(-1)] for one in x]
    blocks_of(100)
    of_each_g = torch.func.vmap(lambda x, g: mean_log_sum(x, g, 1.7), in_dims=(None, -1))
    of_each_pair = torch.func.vmap(of_each_g, in_dims=(0, None))
    torch.testing.assert_close(of_each_pair(x, g), torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=0)
