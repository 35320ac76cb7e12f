"""The average test loss of a one-player game, against values worked out by hand."""

import math

import pytest
import torch
from torch import nn

import gan_influence as gi
from gan_influence.metrics import AverageLoss
from gan_influence.metrics.metric import metric_gradients

INPUTS = torch.tensor([[0.0], [1.0], [-1.0]]).double()
TARGETS = torch.ones(3, 1).double()


def line(slope=2.0, shift=1.0):
    model = nn.Linear(1, 1).double()
    model.weight.data.fill_(slope)
    model.bias.data.fill_(shift)
    return model


def game(loss="squared_error", model=None, **options):
    return gi.Game(None, model or line(), loss=loss, **options)


def value(metric, of):
    return metric.value(gi.Players(of, of.theta()))


def test_it_is_the_mean_of_the_games_own_loss():
    # Outputs 1, 3, -1: half the squares of 0, 2, -2.
    assert float(value(AverageLoss(INPUTS, TARGETS), game())) == pytest.approx((0 + 2 + 2) / 3)
    assert float(value(AverageLoss(INPUTS, TARGETS), game(lambda f, y: 3 * f[:, 0] + y[:, 0]))) == pytest.approx(3 + 1)


def test_it_leaves_out_the_regulariser():
    assert float(value(AverageLoss(INPUTS, TARGETS), game(l2=7.0))) == pytest.approx(4 / 3)


def test_targets_may_be_class_labels():
    model = nn.Linear(1, 3).double()
    nn.init.zeros_(model.weight)
    model.bias.data = torch.tensor([1.0, 2.0, 4.0]).log().double()  # probabilities 1/7, 2/7, 4/7
    measured = value(AverageLoss(INPUTS, torch.tensor([0, 2, 2])), game("cross_entropy", model))
    assert float(measured) == pytest.approx((math.log(7) + 2 * math.log(7 / 4)) / 3)


def test_its_gradient_is_that_of_least_squares():
    of = game()
    (slope,) = metric_gradients(AverageLoss(INPUTS, TARGETS), of, of.theta()[None])
    # Residuals 0, 2, -2: their mean products with the inputs and with 1.
    assert slope.tolist() == pytest.approx([(0 + 2 + 2) / 3, 0])


def test_later_changes_to_the_callers_tensors_do_not_reach_it():
    inputs, targets = INPUTS.clone(), TARGETS.clone()
    metric = AverageLoss(inputs, targets)
    inputs.zero_(), targets.zero_()
    assert float(value(metric, game())) == pytest.approx(4 / 3)


def test_made_under_inference_mode_it_can_be_differentiated_elsewhere():
    with torch.inference_mode():
        metric = AverageLoss(INPUTS.clone(), TARGETS.clone())
    of = game()
    (slope,) = metric_gradients(metric, of, of.theta()[None])
    assert slope.tolist() == pytest.approx([(0 + 2 + 2) / 3, 0])


BAD_INPUT = {
    "list": ({"inputs": [[1.0]]}, TypeError, r"inputs must be a floating-point tensor, got list"),
    "nan": ({"inputs": INPUTS * math.nan}, ValueError, r"inputs contains NaN or infinity"),
    "no-inputs": ({"inputs": INPUTS[:0]}, ValueError, r"inputs must hold at least one row"),
    "list-of-targets": ({"targets": [1.0]}, TypeError, r"targets must be a tensor, got list"),
    "few-targets": ({"targets": TARGETS[:2]}, ValueError, r"one target for each of the 3 inputs, got shape \(2, 1\)"),
    "scalar-target": ({"targets": TARGETS[0, 0]}, ValueError, r"one target for each of the 3 inputs, got shape \(\)"),
    "infinite-target": ({"targets": TARGETS * math.inf}, ValueError, r"targets contains NaN or infinity"),
}


@pytest.mark.parametrize(("changes", "error", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_it_refuses(changes, error, message):
    with pytest.raises(error, match=message):
        AverageLoss(**({"inputs": INPUTS, "targets": TARGETS} | changes))


def test_it_refuses_a_model_of_another_type():
    with pytest.raises(TypeError, match=r"model's parameters are torch.float64, but the metric's inputs are torch.f"):
        value(AverageLoss(INPUTS.float(), TARGETS), game())


def test_it_refuses_a_loss_that_mixes_the_pairs():
    every_pair = game(lambda f, y: (f - y).square())  # (3, 1) against (3,)
    with pytest.raises(ValueError, match=r"gave shape \(3, 3\) for 3 pairs: .*targets are \(3,\)"):
        value(AverageLoss(INPUTS, TARGETS[:, 0]), every_pair)


@pytest.mark.parametrize(
    ("loss", "targets", "error", "message"),
    [
        ("binary_cross_entropy", [1, -1, 1], ValueError, r"targets of binary_cross_entropy .* got -1 in row 1"),
        ("binary_cross_entropy", [0, 0, 255], ValueError, r"targets of binary_cross_entropy .* got 255 in row 2"),
        ("cross_entropy", [0, -100, 0], ValueError, r"class indices of cross_entropy .* got -100 in row 1"),
        ("cross_entropy", [0.0, 0.0, 0.0], TypeError, r"class indices of cross_entropy .* got torch.float32"),
    ],
)
def test_it_refuses_targets_outside_the_losss_range(loss, targets, error, message):
    with pytest.raises(error, match=message):
        value(AverageLoss(INPUTS, torch.tensor(targets)), game(loss))


def test_it_refuses_a_game_of_two_players():
    with pytest.raises(TypeError, match=r"AverageLoss measures one-player games, but this game has two players"):
        value(AverageLoss(INPUTS, TARGETS), gi.Game(*gi.models.lqgan()))
