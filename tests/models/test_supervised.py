"""The supervised models of SGD-influence: their layers, their initialisation, and that runs of them can be scored."""

import re

import pytest
import torch
from support.games import normal, relative_error, same_bits
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d, linear, max_pool2d, relu

import gan_influence as gi
from gan_influence import models

OF_CIFAR = 896 + 64 + 9248 + 18_496 + 128 + 36_928 + 73_856 + 256 + 147_584 + 20_490
MODELS = {  # how to make it, its input, its output's shape, how many parameters
    "logistic-regression": (lambda seed: models.logistic_regression(5, seed=seed), normal(1, 3, 5), (3, 1), 6),
    "softmax": (lambda seed: models.logistic_regression(5, 4, seed=seed), normal(1, 3, 5), (3, 4), 24),
    "dense": (lambda seed: models.dense_network(5, seed=seed), normal(1, 3, 5), (3, 1), 6 * 8 + 9 * 8 + 9),
    "mnist": (lambda seed: models.mnist_cnn(seed=seed), normal(1, 3, 1, 28, 28).float(), (3, 10), 520 + 10_020 + 3210),
    "cifar": (lambda seed: models.cifar_cnn(seed=seed), normal(1, 3, 3, 32, 32).float(), (3, 10), OF_CIFAR),
    "autoencoder": (
        *(lambda seed: models.autoencoder(seed=seed), normal(1, 3, 1, 28, 28).float(), (3, 1, 28, 28)),
        240 + 2604 + 3612 + 4632 + 217,
    ),
    "autoencoder-of-colours": (
        *(lambda seed: models.autoencoder(3, seed=seed), normal(1, 3, 3, 32, 32).float(), (3, 3, 32, 32)),
        1792 + 18_464 + 25_632 + 32_832 + 1731,
    ),
}
each_model = pytest.mark.parametrize(("make", "rows", "shape", "size"), MODELS.values(), ids=MODELS)


@each_model
def test_a_model_takes_its_rows_and_has_as_many_parameters(make, rows, shape, size):
    model = make(0)
    assert tuple(model(rows).shape) == shape
    assert sum(p.numel() for p in model.parameters()) == size


@each_model
def test_a_seed_is_torchs_own_and_leaves_the_global_generator_alone(make, rows, shape, size):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    seeded = make(3)
    assert same_bits(torch.rand(1), expected)
    torch.manual_seed(3)
    for one, other in zip(seeded.parameters(), make(None).parameters(), strict=True):
        assert same_bits(one.detach(), other.detach())
    assert not same_bits(next(make(4).parameters()).detach(), next(seeded.parameters()).detach())


def test_the_dense_network_is_its_formula():
    model, x = models.dense_network(5, (7, 3), 2, seed=0), normal(2, 6, 5)
    w1, b1, w2, b2, w3, b3 = model.parameters()
    expected = linear(relu(linear(relu(linear(x, w1, b1)), w2, b2)), w3, b3)
    assert relative_error(model(x), expected) < 1e-14


def test_the_cnn_for_digits_is_its_formula():
    model, x = models.mnist_cnn(seed=0, dtype=torch.float64), normal(2, 6, 1, 28, 28)
    k1, b1, k2, b2, w, b = model.parameters()
    maps = max_pool2d(relu(conv2d(max_pool2d(relu(conv2d(x, k1, b1)), 2), k2, b2)), 2)
    assert relative_error(model(x), linear(maps.flatten(1), w, b)) < 1e-12


@pytest.mark.parametrize(("colours", "side"), [(1, 28), (3, 32)])
def test_the_autoencoder_and_its_reconstruction_errors_are_their_formula(colours, side):
    model, x = models.autoencoder(colours, seed=0, dtype=torch.float64), normal(2, 6, colours, side, side).tanh()
    k1, b1, k2, b2, k3, b3, k4, b4, k5, b5 = model.parameters()
    code = max_pool2d(relu(conv2d(max_pool2d(relu(conv2d(x, k1, b1)), 2), k2, b2)), 2, stride=1)
    maps = relu(conv_transpose2d(relu(conv_transpose2d(code, k3, b3, stride=2)), k4, b4))
    expected = torch.tanh(conv_transpose2d(maps, k5, b5))
    assert relative_error(model(x), expected) < 1e-12
    game = gi.Game(None, model, loss="squared_error")
    trace = gi.train(game, (x, x), gi.FullBatch(), 0, gi.SGD(0.1))
    errors = gi.metrics.AverageLoss(x, x, each=True)(trace)  # half the sum of squares
    by_hand = [sum(float(one) ** 2 for one in row.flatten()) / 2 for row in (expected - x).detach()]
    assert relative_error(errors, torch.tensor(by_hand, dtype=torch.float64)) < 1e-12


def test_the_cnn_for_colours_has_batch_norm_between_the_convolutions_of_a_block():
    block = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d, nn.ReLU, nn.MaxPool2d]
    model = models.cifar_cnn(seed=0)
    assert [type(layer) for layer in model] == [*block * 3, nn.Flatten, nn.Linear]
    x = normal(2, 4, 3, 32, 32).float()
    assert relative_error(model(x)[:2], model(x[:2])) > 0.01  # rows interact
    apart = models.cifar_cnn(statistics="running", seed=0)
    assert relative_error(apart(x)[:2], apart(x[:2])) < 1e-5


def test_batch_statistics_need_a_game_that_knows_of_them():
    with pytest.raises(ValueError, match="uses batch statistics"):
        gi.Game(None, models.cifar_cnn(), loss="cross_entropy")
    gi.Game(None, models.cifar_cnn(), loss="cross_entropy", rows_interact=True)
    gi.Game(None, models.cifar_cnn(statistics="running"), loss="cross_entropy")


def test_a_run_of_the_dense_network_is_scored_as_retraining_says():
    x, y = normal(3, 20, 4), (normal(3, 20, 4).sum(1) > 0).long()
    game = gi.Game(None, models.dense_network(4, seed=1), loss="binary_cross_entropy", l2=0.001)
    trace = gi.train(game, (x, y), gi.Minibatches(20, 5, seed=0), 30, gi.SGD(0.05))
    metric = gi.metrics.AverageLoss(normal(4, 9, 4), torch.arange(9) % 2)
    truth = gi.counterfactual(trace, metric, [[row] for row in range(20)])
    assert float(torch.corrcoef(torch.stack([truth, gi.itd(trace, metric)]))[0, 1]) > 0.99


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.logistic_regression(0), "inputs must be a whole number >= 1, got 0"),
        (lambda: models.logistic_regression(3, 1.5), "outputs must be a whole number >= 1, got 1.5"),
        (lambda: models.dense_network(3, ()), "hidden must be one or more whole numbers >= 1, got ()"),
        (lambda: models.dense_network(3, (8, 0)), "hidden must be one or more whole numbers >= 1, got (8, 0)"),
        (lambda: models.cifar_cnn(statistics="eval"), "statistics must be batch or running, got 'eval'"),
        (lambda: models.autoencoder(2), "colours must be 1 or 3, got 2"),
    ],
)
def test_a_bad_setting_is_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
