"""The discriminator's expected loss, against values worked out by hand for an LQGAN."""

import math

import pytest
import torch
from support.games import normal
from torch import nn

import gan_influence as gi
from gan_influence.metrics import DiscriminatorLoss
from gan_influence.metrics.metric import metric_gradients, metric_values

# D(x) = x^2 / 2 - x and G(z) = 2 z + 1.
PLAYERS = {"scale": 2.0, "shift": 1.0, "quadratic": 0.5, "linear": -1.0}
REFERENCE = torch.tensor([[1.0], [3.0]]).double()  # logits -1/2, 3/2
LATENTS = torch.tensor([[-1.0], [0.5], [0.0]]).double()  # generated -1, 2, 1; logits 3/2, 0, -1/2


def softplus(a):
    return math.log(1 + math.exp(a))


BY_HAND = {
    "wasserstein": (0.5 - 1.5) / 2 + (1.5 + 0 - 0.5) / 3,
    "least_squares": (1.5**2 + 0.5**2) / 2 + (1.5**2 + 0 + 0.5**2) / 3,
    "hinge": (1.5 + 0) / 2 + (2.5 + 1 + 0.5) / 3,
    "softplus": (softplus(1.5) + softplus(-0.5)) / 2 + (softplus(2.5) + softplus(1) + softplus(0.5)) / 3,
    "minimax": (softplus(0.5) + softplus(-1.5)) / 2 + (softplus(1.5) + softplus(0) + softplus(-0.5)) / 3,
    "non_saturating": (softplus(0.5) + softplus(-1.5)) / 2 + (softplus(1.5) + softplus(0) + softplus(-0.5)) / 3,
}


def players(game):
    return gi.Players(game, game.theta())


def at(loss, **options):
    return players(gi.Game(*gi.models.lqgan(**PLAYERS), loss=loss, **options))


@pytest.mark.parametrize(("loss", "expected"), BY_HAND.items(), ids=BY_HAND)
def test_it_is_the_games_loss_on_its_own_rows_and_latents(loss, expected):
    assert float(DiscriminatorLoss(REFERENCE, LATENTS).value(at(loss))) == pytest.approx(expected, rel=1e-14)


def test_it_leaves_out_the_regulariser():
    value = DiscriminatorLoss(REFERENCE, LATENTS).value(at("hinge", l2=(3.0, 5.0)))
    assert float(value) == pytest.approx(BY_HAND["hinge"], rel=1e-14)


def test_its_gradient_sees_both_players():
    game = gi.Game(*gi.models.lqgan(**PLAYERS), loss="wasserstein")
    (slope,) = metric_gradients(DiscriminatorLoss(REFERENCE, LATENTS), game, game.theta()[None])
    expected = [
        ((-1 - 1) * -1 + (2 - 1) * 0.5 + (1 - 1) * 0) / 3,  # scale: mean of D'(g) z, D'(g) = g - 1
        ((-1 - 1) + (2 - 1) + (1 - 1)) / 3,  # shift: mean of D'(g)
        -(1 + 9) / 2 + (1 + 4 + 1) / 3,  # quadratic: mean of g^2 less mean of x^2
        -(1 + 3) / 2 + (-1 + 2 + 1) / 3,  # linear: mean of g less mean of x
    ]
    assert slope.tolist() == pytest.approx(expected, rel=1e-14)


def test_several_models_at_once_give_each_its_own_value():
    game = gi.Game(*gi.models.lqgan(**PLAYERS), loss="hinge")
    zero = torch.zeros(4).double()
    values = metric_values(DiscriminatorLoss(REFERENCE, LATENTS), game, torch.stack([game.theta(), zero]))
    assert values.tolist() == pytest.approx([BY_HAND["hinge"], 1 + 1])


def test_the_metric_of_a_trace_is_measured_at_its_end():
    game = gi.Game(*gi.models.lqgan(**PLAYERS), loss="wasserstein")
    trace = gi.train(game, REFERENCE, gi.FullBatch(LATENTS), 1, gi.SGD(0.1))
    value = DiscriminatorLoss(REFERENCE, LATENTS)(trace)
    assert value.ndim == 0
    assert not value.requires_grad
    # One step by hand: D moves against its gradient (-3, -4/3), G against minus its own part (5/6, -1/3).
    scale, shift, quadratic, linear = 2 + 0.1 * 5 / 6, 1 - 0.1 / 3, 0.5 + 0.3, -1 + 0.4 / 3
    logits = [quadratic * x * x + linear * x for x in (1, 3, *(scale * z + shift for z in (-1, 0.5, 0)))]
    assert float(value) == pytest.approx(-sum(logits[:2]) / 2 + sum(logits[2:]) / 3, rel=1e-13)


def test_itd_of_it_is_the_derivative_of_training_in_the_rows_weights():
    game = gi.Game(*gi.models.lqgan(**PLAYERS))
    data, h = normal(1, 4, 1, mean=1.0), 1e-5
    metric = DiscriminatorLoss(REFERENCE, LATENTS)

    def trained(**options):
        return gi.train(game, data, gi.FullBatch(normal(2, 5, 1)), 6, gi.SGD(0.1), **options)

    def weighted(row, change):
        weights = torch.ones(4).double()
        weights[row] += change
        return float(metric(trained(weights=weights)))

    expected = [-(weighted(row, h) - weighted(row, -h)) / (2 * h) for row in range(4)]
    assert gi.itd(trained(), metric).tolist() == pytest.approx(expected, rel=1e-7)


def test_later_changes_to_the_callers_tensors_do_not_reach_it():
    reference, latents = REFERENCE.clone(), LATENTS.clone()
    metric = DiscriminatorLoss(reference, latents)
    reference.zero_(), latents.zero_()
    assert float(metric.value(at("hinge"))) == pytest.approx(BY_HAND["hinge"])


BAD_INPUT = {
    "list": ({"reference": [1.0]}, TypeError, r"reference must be a floating-point tensor, got list"),
    "integers": ({"latents": LATENTS.long()}, TypeError, r"latents must be a floating-point .*got torch.int64"),
    "none": ({"reference": REFERENCE[:0]}, ValueError, r"reference must hold at least one row, got shape \(0, 1\)"),
    "nan": ({"latents": LATENTS * math.nan}, ValueError, r"latents contains NaN or infinity"),
    "two-types": (
        {"latents": LATENTS.float()},
        TypeError,
        r"reference is torch.float64, but latents are torch.float32",
    ),
}


@pytest.mark.parametrize(("changes", "error", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_it_refuses(changes, error, message):
    with pytest.raises(error, match=message):
        DiscriminatorLoss(**({"reference": REFERENCE, "latents": LATENTS} | changes))


def test_it_refuses_players_of_another_type():
    metric = DiscriminatorLoss(REFERENCE.float(), LATENTS.float())
    with pytest.raises(TypeError, match=r"generator's parameters are torch.float64, but the metric's .*torch.float32"):
        metric.value(at("hinge"))


def test_it_refuses_a_reference_of_another_width():
    metric = DiscriminatorLoss(normal(0, 2, 3), LATENTS)
    with pytest.raises(ValueError, match=r"makes rows of shape \(1,\), but the metric's reference .* shape \(3,\)"):
        metric.value(at("hinge"))


@pytest.mark.parametrize("metric", [DiscriminatorLoss, gi.metrics.AverageLogLikelihood])
def test_metrics_of_a_generator_refuse_a_one_player_game(metric):
    one_player = players(gi.Game(None, nn.Linear(1, 1).double(), loss="squared_error"))
    with pytest.raises(TypeError, match=rf"{metric.__name__} measures a generator, but this game has one player"):
        metric(REFERENCE, LATENTS).value(one_player)
