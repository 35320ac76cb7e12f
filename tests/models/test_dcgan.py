"""The DCGAN of TNNLS Table IV, and every estimator on a tiny one against plain torch layers."""

import copy
import math

import pytest
import torch
from support.games import Problem, field, normal, relative_error, same_bits, unrolled
from torch import nn
from torch.func import functional_call

import gan_influence as gi
from gan_influence.models import dcgan
from gan_influence.nn import Convolution, Deconvolution, ImageNorm, Sigmoid

TORCHS = {Convolution: nn.Conv2d, Deconvolution: nn.ConvTranspose2d}
PARAMETERS = {  # of G and D, counted by hand: kernels; biases; gains and biases of norms; what comes last
    (28, 8): (
        32 * 8 * 4 + 8 * 8 * (9 + 9 + 4 + 9 + 9 + 16) + 7 * 8 + 7 * 16 + (8 + 1),
        8 * 16 + 8 * 8 * (9 + 9 + 4 + 9 + 9 + 4) + 7 * 8 + 7 * 16 + (8 + 1),
    ),
    (28, 32): (
        32 * 32 * 4 + 32 * 32 * 56 + 7 * 32 + 7 * 64 + (32 + 1),
        32 * 16 + 32 * 32 * 44 + 7 * 32 + 7 * 64 + (32 + 1),
    ),
    (8, 2): (32 * 2 * 4 + 2 * 2 * (9 + 4) + 3 * 2 + 3 * 4 + (2 + 1), 2 * 4 + 2 * 2 * (9 + 4) + 3 * 2 + 3 * 4 + (2 + 1)),
}
SIZES = {  # of the images after each (de)convolution, TNNLS Table IV
    28: ([2, 4, 9, 10, 12, 25, 28, 28], [25, 12, 10, 9, 4, 2, 1]),
    8: ([2, 4, 8, 8], [4, 2, 1]),
    32: ([2, 4, 9, 10, 12, 14, 29, 32, 32], [29, 14, 12, 10, 9, 4, 2, 1]),
    64: ([2, 4, 9, 10, 12, 14, 29, 30, 62, 64, 64], [62, 30, 29, 14, 12, 10, 9, 4, 2, 1]),
}
each_size = pytest.mark.parametrize("size", SIZES)


def values(players):
    return torch.cat([p.detach().reshape(-1) for player in players for p in player.parameters()])


def outputs(player, inputs, kinds):
    """What its layers of these kinds give, in order."""
    found = []
    hooks = [
        layer.register_forward_hook(lambda layer, given, result: found.append(result))
        for layer in player
        if isinstance(layer, kinds)
    ]
    player(inputs)
    for hook in hooks:
        hook.remove()
    return found


# The layers


@each_size
def test_layers_have_the_sizes_of_table_iv(size):
    for player, inputs, sizes in zip(
        dcgan(5, size), (torch.zeros(3, 32), torch.zeros(3, 1, size, size)), SIZES[size], strict=True
    ):
        channels = [5] * len(sizes)
        if player[0].__class__ is nn.Unflatten:
            channels[-1] = 1  # the 1x1 convolution
        shapes = [tuple(image.shape) for image in outputs(player, inputs, (Convolution, Deconvolution))]
        assert shapes == [(3, h, length, length) for h, length in zip(channels, sizes, strict=True)]


@each_size
def test_a_block_is_a_convolution_a_sigmoid_and_a_norm(size):
    generator, discriminator = dcgan(5, size)
    blocks = len(SIZES[size][1])
    of_generator, of_discriminator = ([type(layer) for layer in player] for player in (generator, discriminator))
    deconvolved = [Deconvolution, Sigmoid, ImageNorm] * blocks
    assert of_generator == [nn.Unflatten, *deconvolved, Convolution, nn.Tanh]
    assert of_discriminator == [Convolution, Sigmoid, ImageNorm] * blocks + [nn.Flatten, nn.Linear]


@each_size
def test_the_discriminator_mirrors_the_generator(size):
    kernels = [
        [(layer.kernel_size, layer.stride) for layer in player if isinstance(layer, of)]
        for player, of in zip(dcgan(2, size), (Deconvolution, Convolution), strict=True)
    ]
    assert kernels[0] == kernels[1][::-1]


@pytest.mark.parametrize(("made", "expected"), PARAMETERS.items(), ids=str)
def test_it_has_as_many_parameters_as_counted_by_hand(made, expected):
    size, channels = made
    counts = [sum(p.numel() for p in player.parameters()) for player in dcgan(channels, size)]
    assert counts == list(expected)


def test_it_has_8_channels_and_28_pixels_by_default():
    assert same_bits(values(dcgan(seed=0)), values(dcgan(8, 28, seed=0)))


@each_size
@pytest.mark.parametrize("colours", [1, 3])
def test_latents_become_images_from_minus_1_to_1_and_images_a_logit(size, colours):
    generator, discriminator = dcgan(3, size, colours=colours, latent_size=5, dtype=torch.float64, seed=0)
    generator[-2].weight.data *= 20
    images = generator(10 * normal(0, 7, 5))
    assert images.shape == (7, colours, size, size)
    assert images.abs().max() <= 1
    assert images.min() < -0.9
    assert images.max() > 0.9
    assert discriminator(images).shape == (7, 1)


def test_each_image_is_normalised_over_height_width_and_channels_with_a_gain_and_a_bias_for_each_channel():
    _, discriminator = dcgan(3, 8, dtype=torch.float64, seed=0)
    images = outputs(discriminator, normal(1, 4, 1, 8, 8), ImageNorm)[0]
    assert images.mean((1, 2, 3)).abs().max() < 1e-12
    norm = discriminator[2]
    assert norm.weight.shape == norm.bias.shape == (3,)
    norm.bias.data = torch.tensor([1.0, 2.0, 3.0]).double()
    moved = outputs(discriminator, normal(1, 4, 1, 8, 8), ImageNorm)[0]
    torch.testing.assert_close(moved - images, norm.bias[:, None, None].expand_as(images))


@each_size
def test_kernels_are_glorot_uniform_biases_zero_and_gains_one(size):
    for player in dcgan(40, size, latent_size=60, seed=0):
        for layer in player:
            if isinstance(layer, ImageNorm):
                assert (layer.weight == 1).all()
                assert (layer.bias == 0).all()
            elif hasattr(layer, "weight"):
                assert (layer.bias == 0).all()
                kernel = layer.weight.detach()
                inputs_and_outputs = sum(kernel.shape[:2]) * math.prod(kernel.shape[2:])
                bound = math.sqrt(6 / inputs_and_outputs)
                assert kernel.abs().max() <= bound
                assert kernel.abs().max() > (1 - 5 / kernel.numel()) * bound  # less than that in 1 of 150 draws
                # A uniform variable's square has mean b^2/3 and standard deviation b^2 sqrt(4/45).
                spread = 5 * bound**2 * math.sqrt(4 / 45 / kernel.numel())
                assert kernel.square().mean() == pytest.approx(bound**2 / 3, abs=spread)


def test_a_seed_fixes_both_players_and_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert same_bits(values(dcgan(2, seed=5)), values(dcgan(2, seed=5)))
    assert not same_bits(values(dcgan(2, seed=5)), values(dcgan(2, seed=6)))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_default_draws_come_from_torchs_generator():
    torch.manual_seed(3)
    first = values(dcgan(2))
    assert not same_bits(values(dcgan(2)), first)
    torch.manual_seed(3)
    assert same_bits(values(dcgan(2)), first)


def test_the_data_type_is_as_asked_for():
    assert {p.dtype for player in dcgan(2) for p in player.parameters()} == {torch.float32}
    assert {p.dtype for player in dcgan(2, dtype=torch.float64) for p in player.parameters()} == {torch.float64}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 48}, r"image_size must be 8, 28, 32 or 64 pixels, got 48"),
        ({"image_size": "28"}, r"image_size must be 8, 28, 32 or 64 pixels, got '28'"),
        ({"image_size": None}, r"image_size must be 8, 28, 32 or 64 pixels, got None"),
        ({"channels": 0}, r"channels must be a whole number >= 1, got 0"),
        ({"channels": 8.0}, r"channels must be a whole number >= 1, got 8.0"),
        ({"channels": True}, r"channels must be a whole number >= 1, got True"),
        ({"colours": -1}, r"colours must be a whole number >= 1, got -1"),
        ({"latent_size": 0}, r"latent_size must be a whole number >= 1, got 0"),
        ({"latent_size": (32,)}, r"latent_size must be a whole number >= 1, got \(32,\)"),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        dcgan(**settings)


# A tiny one, trained and scored


def in_torchs_layers(player):
    """The same network with none of the library's layers."""
    plain = copy.deepcopy(player)
    for k, layer in enumerate(plain):
        if isinstance(layer, ImageNorm):
            plain[k] = nn.GroupNorm(1, layer.num_channels, dtype=torch.float64)
        elif type(layer) in TORCHS:
            of = layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride
            plain[k] = TORCHS[type(layer)](*of, dtype=torch.float64)
    plain.load_state_dict(player.state_dict())
    return plain


def of_flat_parameters(module):
    """``(parameters, inputs) -> outputs``."""
    names, shapes = zip(*((name, p.shape) for name, p in module.named_parameters()), strict=True)

    def call(parameters, inputs):
        parts = parameters.split([shape.numel() for shape in shapes])
        named = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return functional_call(module, named, (inputs,))

    return call


def tiny(colours=1, **changes):
    """Six images of 8 pixels, batches of four and two, and the players once more in plain torch layers."""
    players = dcgan(2, 8, colours=colours, latent_size=3, dtype=torch.float64, seed=0)
    for k, parameter in enumerate(p for player in players for p in player.parameters() if p.ndim == 1):
        parameter.data += 0.3 * normal(50 + k, *parameter.shape)
    generate, discriminate = (of_flat_parameters(in_torchs_layers(player)) for player in players)
    problem = Problem(
        *players,
        generate,
        lambda psi, images: discriminate(psi, images)[:, 0],
        data=normal(1, 6, colours, 8, 8).tanh(),
        schedule=gi.Minibatches(6, 4, latent_shape=(3,), seed=0),
        reference=normal(3, colours, 8, 8),
        fresh=normal(4, 5, 3),
        loss="non_saturating",
    )
    return problem.but(**changes)


def measured(images, template):
    return (images * template).mean((1, 2, 3)).exp().mean()


class Likeness:
    """Of generated images to a template."""

    def __init__(self, problem):
        self.problem = problem

    def value(self, players):
        return measured(players.generate(self.problem.fresh), self.problem.reference)


def by_hand(problem, theta):
    phi, _ = theta.split(problem.sizes)
    return measured(problem.generate(phi, problem.fresh), problem.reference)


def unrolled_scores(problem, steps):
    """``-dE(theta_t(w)) / dw`` at each stop, by autograd through plain torch layers."""
    weights = problem.ones.requires_grad_()
    run = unrolled(problem, weights, max(steps))
    found = [torch.autograd.grad(by_hand(problem, run[t]), weights, retain_graph=True)[0] for t in steps]
    return -torch.stack(found)


@pytest.mark.parametrize("colours", [1, 3])
def test_itd_equals_gradient_of_unrolled_training(colours):
    problem = tiny(colours, l2=(0.3, 0.2))
    scores = gi.itd(problem.train(6), Likeness(problem))
    assert (scores != 0).all()
    assert relative_error(scores, unrolled_scores(problem, [6])[0]) < 1e-10


def test_itd_from_several_stops_equals_separate_sweeps():
    """Several cotangents go through the layers under vmap."""
    problem, stops = tiny(), [6, 2, 5, 1]
    scores = gi.itd(problem.train(6), Likeness(problem), at=stops)
    separate = torch.stack([gi.itd(problem.train(stop), Likeness(problem)) for stop in stops])
    assert relative_error(scores, separate) < 1e-13
    assert relative_error(scores, unrolled_scores(problem, stops)) < 1e-10


def test_images_may_lie_in_memory_with_their_colours_last():
    problem = tiny(3, schedule=gi.FullBatch(normal(2, 4, 3)))
    moved = problem.but(data=problem.data.to(memory_format=torch.channels_last))
    assert not moved.data.is_contiguous()
    one, other = (gi.itd(each.train(4), Likeness(each)) for each in (problem, moved))
    assert relative_error(other, one) < 1e-11
    removals = [[0], [1, 2]]
    truth = [gi.counterfactual(each.train(4), Likeness(each), removals) for each in (problem, moved)]
    assert relative_error(*truth) < 1e-9


def test_aid_equals_its_sum_over_products_with_the_transposed_jacobian():
    """TNNLS eq. 14 and 18, with ``J^T u`` by autograd through plain torch layers."""
    problem, terms = tiny(schedule=gi.FullBatch(normal(2, 4, 3))), 3
    trace = problem.train(2)
    theta, weights = trace.theta().clone().requires_grad_(), problem.ones.requires_grad_()
    u = torch.autograd.grad(by_hand(problem, theta), theta)[0]
    v, expected = field(problem, theta, weights), 0
    for _ in range(terms):
        product, of_rows = torch.autograd.grad(v, (theta, weights), problem.eta * u, retain_graph=True)
        expected, u = expected + of_rows, u - product
    scores = gi.aid(trace, Likeness(problem), terms=terms)
    assert relative_error(scores, expected) < 1e-10


def test_counterfactuals_are_differences_of_runs_written_by_hand():
    problem, removals = tiny(), [[0], [3, 5], []]
    truth = gi.counterfactual(problem.train(6), Likeness(problem), removals)
    with_all = by_hand(problem, unrolled(problem, problem.ones, 6)[-1])
    for removed, difference in zip(removals, truth.tolist(), strict=True):
        weights = problem.ones.index_fill(0, torch.tensor(removed, dtype=torch.long), 0.0)
        expected = by_hand(problem, unrolled(problem, weights, 6)[-1]) - with_all
        assert difference == pytest.approx(float(expected.detach()), rel=1e-8, abs=1e-15)


def one_block_each():
    """Players of each kind of layer, of which steps are recorded sooner."""
    generator = nn.Sequential(
        nn.Unflatten(1, (3, 1, 1)), Deconvolution(3, 2, 3), Sigmoid(), ImageNorm(2), Convolution(2, 1, 1), nn.Tanh()
    )
    discriminator = nn.Sequential(Convolution(1, 2, 3), Sigmoid(), ImageNorm(2), nn.Flatten(), nn.Linear(2, 1))
    return generator.double(), discriminator.double()


@pytest.mark.bits
def test_recorded_steps_have_the_bits_of_the_eager_ones(monkeypatch):
    """No warning either, that a step could not be recorded: one is an error here."""
    torch.manual_seed(0)
    game = gi.Game(*one_block_each(), loss="non_saturating", l2=(0.3, 0.2), l2_of="kernels")
    problem = tiny(data=normal(1, 6, 1, 3, 3).tanh(), reference=normal(3, 1, 3, 3))

    def run(eager_calls):
        monkeypatch.setattr("gan_influence.replay.recorded._EAGER_CALLS", eager_calls)
        schedule = gi.Minibatches(6, 3, latent_shape=(3,), seed=0)
        trace, metric = gi.train(game, problem.data, schedule, 6, gi.SGD(0.1)), Likeness(problem)
        return trace.states, gi.itd(trace, metric, at=[6, 5]), gi.counterfactual(trace, metric, [[0], [1, 2]])

    for one, other in zip(run(3), run(10**9), strict=True):
        assert same_bits(one, other)


@pytest.mark.bits
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pixels", [8, 28])
def test_steps_of_the_published_players_are_recorded_in_either_precision(monkeypatch, pixels, dtype):
    """Images of one channel may have any stride along it: the recording has to take the layout that the step has."""

    def run(eager_calls):
        monkeypatch.setattr("gan_influence.replay.recorded._EAGER_CALLS", eager_calls)
        generator, discriminator = gi.models.dcgan(2, pixels, seed=0)
        game = gi.Game(generator.to(dtype), discriminator.to(dtype), loss="non_saturating")
        images = normal(4, 4, 1, pixels, pixels).tanh().to(dtype)
        return gi.train(game, images, gi.Minibatches(4, 2, latent_shape=(32,), seed=0), 3, gi.SGD(0.1)).states

    assert same_bits(run(1), run(10**9))


# Regularised kernels


@pytest.mark.parametrize("rates", [(0.3, 0.2), (0.3, 0.0), (0.0, 0.2)])
def test_l2_of_kernels_leaves_biases_and_gains_alone(rates):
    """As the ICLR authors' code: ``lambda w`` onto the slopes of parameters of two dimensions or more."""
    problem = tiny()
    plain, regular = (
        gi.Game(problem.generator, problem.discriminator, l2=l2, l2_of="kernels") for l2 in ((0, 0), rates)
    )
    inputs = problem.inputs(problem.ones)
    for rate, player, without, added in zip(
        rates,
        plain.players.values(),
        plain.field(plain.leaves(plain.theta()), inputs)[0],
        regular.field(regular.leaves(regular.theta()), inputs)[0],
        strict=True,
    ):
        expected = [(rate if p.ndim > 1 else 0) * p.detach().reshape(-1) for p in player.module.parameters()]
        torch.testing.assert_close(added - without, torch.cat(expected), rtol=0, atol=1e-14)


def test_l2_of_kernels_is_part_of_the_cost_that_is_reported():
    problem = tiny()
    costs = {}
    for of in ("none", "kernels", "all"):
        l2 = (0.0, 0.0) if of == "none" else (0.3, 0.2)
        game = gi.Game(problem.generator, problem.discriminator, l2=l2, l2_of="all" if of == "none" else of)
        inputs = problem.inputs(problem.ones)
        costs[of] = list(game.losses(game.theta(), inputs)[0].values())
    for k, (rate, player) in enumerate(zip((0.3, 0.2), (problem.generator, problem.discriminator), strict=True)):
        squares = {
            of: sum(float(p.detach().square().sum()) for p in player.parameters() if p.ndim > least)
            for of, least in (("kernels", 1), ("all", 0))
        }
        for of, square in squares.items():
            assert float(costs[of][k] - costs["none"][k]) == pytest.approx(rate / 2 * square, rel=1e-9)
        assert squares["kernels"] < squares["all"]


def test_itd_with_l2_of_kernels_equals_finite_differences_in_a_rows_weight():
    problem = tiny()
    game = gi.Game(problem.generator, problem.discriminator, loss=problem.loss, l2=(0.8, 0.6), l2_of="kernels")

    def run(weights):
        return gi.train(game, problem.data, problem.schedule, 5, gi.SGD(0.1), weights=weights)

    scores = gi.itd(run(problem.ones), Likeness(problem))
    for row in (0, 4):
        errors = []
        for step in (0.2, 0.1):
            up, down = (
                Likeness(problem).value(run(problem.ones.index_fill(0, torch.tensor([row]), 1 + move)).players())
                for move in (step, -step)
            )
            errors.append(float(((up - down) / (2 * step)).detach() + scores[row]))
        assert abs(errors[0]) < 0.05 * abs(scores[row])
        assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
