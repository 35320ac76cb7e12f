"""The FCGAN in both of its forms."""

import math

import pytest
import torch
from support.games import normal, same_bits
from torch import nn
from torch.nn.functional import relu

import gan_influence as gi
from gan_influence.models import fcgan

DEEP = [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
FORMS = {
    "code": (DEEP, DEEP, [(32, 10), (32, 32), (2, 32)], [(64, 2), (64, 64), (1, 64)]),
    "paper": (
        [nn.Linear, nn.ReLU, nn.Linear, nn.Tanh],
        [nn.Linear, nn.ReLU, nn.Linear],
        [(32, 10), (32,), (2, 32), (2,)],
        [(64, 2), (64,), (1, 64), (1,)],
    ),
}


def values(players):
    return torch.cat([p.detach().reshape(-1) for player in players for p in player.parameters()])


@pytest.mark.parametrize(("form", "expected"), FORMS.items(), ids=FORMS)
def test_each_form_has_its_layers_in_float64(form, expected):
    players = fcgan(form)
    assert [[type(layer) for layer in player] for player in players] == list(expected[:2])
    assert [[tuple(p.shape) for p in player.parameters()] for player in players] == list(expected[2:])
    assert {p.dtype for player in players for p in player.parameters()} == {torch.float64}


def test_the_codes_form_is_the_default():
    assert same_bits(values(fcgan(seed=3)), values(fcgan("code", seed=3)))


def test_the_codes_form_is_its_formula():
    z, x = normal(1, 5, 10), normal(2, 6, 2)
    generator, discriminator = fcgan("code", seed=0)
    for player, rows in ((generator, z), (discriminator, x)):
        first, second, third = player.parameters()
        expected = relu(relu(rows @ first.T) @ second.T) @ third.T
        torch.testing.assert_close(player(rows), expected)
    assert discriminator(x).shape == (6, 1)


def test_the_papers_form_is_its_formula_and_d_returns_the_logit():
    z, x = normal(1, 5, 10), normal(2, 6, 2)
    generator, discriminator = fcgan("paper", seed=0)
    for player, rows, output in ((generator, z, torch.tanh), (discriminator, x, lambda a: a)):
        for k, parameter in enumerate(player.parameters()):
            parameter.data = normal(10 + k, *parameter.shape)  # biases start at zero
        first, b1, second, b2 = player.parameters()
        torch.testing.assert_close(player(rows), output(relu(rows @ first.T + b1) @ second.T + b2))


def test_sizes_are_honoured():
    generator, discriminator = fcgan(latent_size=3, hidden=(4, 5))
    assert [tuple(p.shape) for p in generator.parameters()] == [(4, 3), (4, 4), (2, 4)]
    assert [tuple(p.shape) for p in discriminator.parameters()] == [(5, 2), (5, 5), (1, 5)]


@pytest.mark.parametrize("form", FORMS)
def test_kernels_are_glorot_uniform_and_biases_zero(form):
    for player in fcgan(form, latent_size=300, hidden=(400, 500), seed=0):
        for parameter in map(torch.Tensor.detach, player.parameters()):
            if parameter.ndim == 1:
                assert (parameter == 0).all()
                continue
            bound = math.sqrt(6 / sum(parameter.shape))
            assert parameter.abs().max() <= bound
            assert parameter.abs().max() > 0.99 * bound
            # A uniform variable's square has mean b^2/3 and standard deviation b^2 sqrt(4/45).
            spread = 5 * bound**2 * math.sqrt(4 / 45 / parameter.numel())
            assert parameter.square().mean() == pytest.approx(bound**2 / 3, abs=spread)


@pytest.mark.parametrize("form", FORMS)
def test_a_seed_fixes_both_players_and_leaves_the_global_generator_alone(form):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert same_bits(values(fcgan(form, seed=5)), values(fcgan(form, seed=5)))
    assert not same_bits(values(fcgan(form, seed=5)), values(fcgan(form, seed=6)))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_default_draws_come_from_torchs_generator():
    torch.manual_seed(3)
    first = values(fcgan())
    assert not same_bits(values(fcgan()), first)
    torch.manual_seed(3)
    assert same_bits(values(fcgan()), first)


def test_it_trains_and_is_scored():
    data = gi.datasets.normal_2d(20, seed=0)
    game = gi.Game(*fcgan(seed=0), loss="non_saturating")
    trace = gi.train(game, data, gi.FullBatch(normal(1, 20, 10)), 5, gi.SGD(0.01))
    scores = gi.itd(trace, gi.metrics.AverageLogLikelihood(data, normal(2, 20, 10)))
    assert scores.isfinite().all()
    assert scores.abs().max() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"form": "tf"}, r"unknown form 'tf'; known forms: code, paper"),
        ({"latent_size": 0}, r"latent_size must be a whole number >= 1, got 0"),
        ({"latent_size": 2.0}, r"latent_size must be a whole number >= 1, got 2.0"),
        ({"hidden": (0, 64)}, r"hidden\[0\] must be a whole number >= 1, got 0"),
        ({"hidden": (32, True)}, r"hidden\[1\] must be a whole number >= 1, got True"),
        ({"hidden": 32}, r"hidden must be two sizes, \(generator, discriminator\), got 32"),
        ({"hidden": (1, 2, 3)}, r"hidden must be two sizes, .*got \(1, 2, 3\)"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        fcgan(**changes)
