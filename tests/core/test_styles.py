"""What StyleGAN and StyleGAN2 share: latents with all that is random, mixing, noise, and derivatives."""

import numpy as np
import pytest
import torch
from support.games import normal, relative_error, textbook_adam
from support.unrolled import cycle_of, gan, measured, squared_slopes, unrolled
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.functional import conv2d, conv_transpose2d, softplus

import gan_influence as gi
from gan_influence.nn.convolution import convolved

BOTH = pytest.mark.parametrize("make", [gi.models.stylegan, gi.models.stylegan2])
STEPS = (1e-4, 5e-5)


def small(make, resolution=8, **settings):
    settings = {"channels": 3, "style_size": 4, "mapping_layers": 2, "dtype": torch.float64, **settings}
    return make(resolution, **settings)


def drawn(generator, n=3, mixing=1.0, seed=0):
    return gi.models.style_latents(generator, mixing)(np.random.default_rng(seed), n)


def test_one_coin_and_one_crossover_are_drawn_for_a_batch():
    generator, _ = small(gi.models.stylegan, 32)
    draw, rng = gi.models.style_latents(generator, 0.9, noise=False), np.random.default_rng(0)
    drawn = [draw(rng, 5)["crossover"] for _ in range(2000)]
    assert all(len(one) == 5 and (one == one[0]).all() for one in drawn)
    counts = torch.bincount(torch.stack(drawn)[:, 0], minlength=4) / 2000
    torch.testing.assert_close(counts, torch.tensor([0.3, 0.3, 0.3, 0.1]), atol=0.03, rtol=0)  # 3 deviations


def test_crossovers_of_stylegan2_are_those_of_its_port():
    generator, _ = small(gi.models.stylegan2, 32)
    draw, rng = gi.models.style_latents(generator, 1.0), np.random.default_rng(0)
    crossovers = {int(draw(rng, 1)["crossover"]) for _ in range(200)}
    assert crossovers == {c - 1 for c in range(1, 8)}  # there the second latent is of layers c, c + 1, ..., 7


@BOTH
def test_without_mixing_a_row_has_one_latent_and_no_crossover(make):
    generator, _ = small(make)
    latents = drawn(generator, mixing=0)
    assert list(latents) == ["z", "noise"]
    assert latents["z"].shape == (3, 4)


@BOTH
def test_latents_are_of_the_generators_type_and_fit_it(make):
    generator, _ = small(make, dtype=torch.float32)
    latents = drawn(generator)
    assert {one.dtype for one in (latents["z"], *latents["noise"])} == {torch.float32}
    assert generator(latents).shape == (3, 3, 8, 8)
    assert "noise" not in gi.models.style_latents(generator, noise=False)(np.random.default_rng(0), 3)


@pytest.mark.parametrize("mixing", [-0.1, 1.1, float("nan"), "often"])
def test_mixing_is_a_probability(mixing):
    with pytest.raises(ValueError, match=r"mixing must be a probability, 0 <= mixing <= 1, got"):
        gi.models.style_latents(small(gi.models.stylegan)[0], mixing)


def test_latents_are_drawn_for_a_style_generator():
    with pytest.raises(TypeError, match="generator of stylegan or stylegan2, got Sequential"):
        gi.models.style_latents(gi.models.dcgan(2, 8)[0])


@BOTH
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": torch.zeros(3, 5)}, r"z must be \(n, 4\) or \(n, 2, 4\), got \(3, 5\)"),
        ({"crossover": torch.zeros(2)}, r"crossover must be \(3,\), one number a row, got \(2,\)"),
        ({"noise": (torch.zeros(3, 1, 4, 4),)}, r"noise must be . maps of shapes \[\(3, 1, 4, 4\), \(3, 1, 8, 8\)"),
        (
            {"label": torch.zeros(3)},
            "a dict of z and, if wanted, crossover and noise, got one of z, c",
        ),
    ],
)
def test_latents_that_do_not_fit_are_refused(make, change, message):
    generator, _ = small(make)
    with pytest.raises(ValueError, match=message):
        generator({**drawn(generator), **change})


def test_latents_are_a_tensor_or_a_dict():
    with pytest.raises(ValueError, match=r"latents must be a tensor z, or a dict of z .* got tuple"):
        small(gi.models.stylegan)[0]((torch.zeros(3, 4),))


@BOTH
@pytest.mark.parametrize("resolution", [4, 12, 2048, 8.0, True, "32"])
def test_resolutions_are_powers_of_two(make, resolution):
    with pytest.raises(ValueError, match="resolution must be a power of two from 8 to 1024, got"):
        make(resolution)


@BOTH
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 0}, "channels must be a whole number >= 1, got 0"),
        ({"channels": {4: 2, 16: 2}}, r"channels must name the resolutions 4, 8, got \[4, 16\]"),
        ({"channels": {4: 2, 8: -1}}, r"channels\[8\] must be a whole number >= 1, got -1"),
        ({"colours": 0}, "colours must be a whole number >= 1"),
        ({"style_size": 0.5}, "style_size must be a whole number >= 1"),
        ({"mapping_layers": 0}, "mapping_layers must be a whole number >= 1"),
        ({"seed": -1}, "seed must be a whole number"),
    ],
)
def test_settings_that_make_no_model_are_refused(make, settings, message):
    with pytest.raises(ValueError, match=message):
        small(make, **settings)


@BOTH
def test_channels_are_capped_by_a_number_or_named_for_each_resolution(make):
    capped, named = small(make, 64, channels=5), small(make, 8, channels={4: 2, 8: 3}, colours=1)
    assert [one.shape for one in capped[0](normal(0, 2, 4)).split(1)] == [(1, 3, 64, 64)] * 2
    assert capped[1].linear.weight.shape == (1, 5)
    assert named[1](named[0](normal(0, 2, 4))).shape == (2, 1)
    assert named[1].from_rgb.weight.shape == (3, 1, 1, 1)


@BOTH
def test_a_seed_gives_the_same_parameters_rounded_from_the_same_draws_for_all_types(make):
    state = torch.get_rng_state()
    one, other, third = (small(make, dtype=dtype, seed=s) for dtype, s in TYPES_AND_SEEDS)
    assert torch.equal(torch.get_rng_state(), state)
    for which in (0, 1):
        for a, b in zip(one[which].parameters(), other[which].parameters(), strict=True):
            assert torch.equal(a.float(), b)
    assert not torch.equal(one[1].linear.weight, third[1].linear.weight)


TYPES_AND_SEEDS = ((torch.float64, 1), (torch.float32, 1), (torch.float64, 2))


@BOTH
@pytest.mark.parametrize("channels", [8, 64])
def test_images_start_around_one_for_any_width(make, channels):
    generator, _ = make(32, channels=channels, style_size=32)
    assert 0.5 < generator(drawn(generator, n=16)).std() < 4


@BOTH
def test_mixed_images_take_the_first_style_up_to_the_crossover_and_the_second_after_it(make):
    generator, _ = small(make, 16)
    z = normal(0, 5, 2, 4)
    crossover = torch.tensor([0, 1, 2, generator.layers - 2, generator.layers - 1])
    first, second = generator.mapping(z[:, 0]), generator.mapping(z[:, 1])
    for row, c in enumerate(crossover.tolist()):
        styles = [(second if i > c else first)[row : row + 1] for i in range(generator.layers)]
        expected = generator.synthesis(styles, [None] * len(generator.noise_sizes))
        mixed = generator({"z": z, "crossover": crossover})[row : row + 1]
        torch.testing.assert_close(mixed, expected, rtol=1e-12, atol=1e-12)


@BOTH
def test_without_a_crossover_or_a_second_latent_nothing_is_mixed(make):
    generator, _ = small(make)
    z = normal(0, 3, 2, 4)
    alone = generator(z[:, 0])
    torch.testing.assert_close(generator({"z": z}), alone)
    torch.testing.assert_close(generator({"z": z[:, 0], "crossover": torch.zeros(3, dtype=torch.int64)}), alone)
    last = torch.full((3,), generator.layers - 1)
    torch.testing.assert_close(generator({"z": z, "crossover": last}), alone, rtol=1e-12, atol=1e-12)


@BOTH
def test_noise_moves_images_once_its_weights_have_left_zero(make):
    generator, _ = small(make)
    latents = drawn(generator)
    quiet = {name: part for name, part in latents.items() if name != "noise"}
    assert torch.equal(generator(latents), generator(quiet))
    weights = [p for name, p in generator.named_parameters() if "noise" in name]
    for weight in weights:
        torch.nn.init.ones_(weight)
    assert not torch.isclose(generator(latents), generator(quiet)).any()
    silent = {**latents, "noise": tuple(torch.zeros_like(one) for one in latents["noise"])}
    assert torch.equal(generator(silent), generator(quiet))


@BOTH
def test_several_models_at_once_are_those_one_after_another(make):
    models = [small(make, seed=k) for k in range(3)]
    latents = drawn(models[0][0], n=4)
    for which, rows in ((0, latents), (1, normal(0, 4, 3, 8, 8))):
        own = [pair[which] for pair in models]
        parameters, buffers = stack_module_state(own)

        def slope(parameters, buffers, module=own[0], rows=rows):
            return grad(lambda p: functional_call(module, (p, buffers), (rows,)).square().sum())(parameters)

        together = vmap(slope)(parameters, buffers)
        for k, module in enumerate(own):
            alone = slope(dict(module.named_parameters()), dict(module.named_buffers()))
            for name, value in alone.items():
                torch.testing.assert_close(together[name][k], value, rtol=1e-9, atol=1e-9, msg=name)


@BOTH
def test_the_slope_of_the_penalty_is_that_of_differences_whose_error_falls_fourfold(make):
    _, discriminator = small(make)
    images = normal(0, 2, 3, 8, 8)
    theta = torch.nn.utils.parameters_to_vector(discriminator.parameters()).detach()
    shapes = {name: p.shape for name, p in discriminator.named_parameters()}

    def named(theta):
        parts = theta.split([shape.numel() for shape in shapes.values()])
        return {name: part.view(shape) for part, (name, shape) in zip(parts, shapes.items(), strict=True)}

    def penalty(theta):
        slope = grad(lambda x: functional_call(discriminator, named(theta), (x,)).sum())(images)
        return slope.square().sum()

    direction = normal(1, len(theta))
    exact = grad(penalty)(theta) @ direction
    errors = [abs((penalty(theta + h * direction) - penalty(theta - h * direction)) / (2 * h) - exact) for h in STEPS]
    assert errors[0] < 1e-5 * abs(exact)
    assert 3.5 < errors[0] / errors[1] < 4.5


def of_torch(images, kernel, bias, *, transposed, **settings):
    return (conv_transpose2d if transposed else conv2d)(images, kernel, bias, **settings)


def derivatives(convolution, images, kernel, bias, **settings):
    """The images, their slopes, and the slopes of these slopes' size."""
    given = [one.clone().requires_grad_() for one in (images, kernel, bias)]
    result = convolution(*given, **settings)
    first = torch.autograd.grad(result.square().sum(), given, create_graph=True)
    return (result, *first, *torch.autograd.grad(sum(one.square().sum() for one in first), given))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("before", "after", "groups", "transposed"),
    [(2, 3, 1, False), (2, 3, 1, True), (4, 4, 4, False), (4, 4, 4, True), (1, 3, 1, False)],
)
def test_a_padded_convolution_and_its_derivatives_are_torchs(before, after, groups, transposed, stride, padding, dtype):
    images, bias = normal(0, 2, before, 6, 7).to(dtype), normal(1, after).to(dtype)
    shape = (before, after // groups) if transposed else (after, before // groups)
    kernel = normal(2, *shape, 3, 3).to(dtype)
    settings = {"stride": stride, "padding": padding, "transposed": transposed, "groups": groups}
    ours, torchs = (derivatives(f, images, kernel, bias, **settings) for f in (convolved, of_torch))
    for one, other in zip(ours, torchs, strict=True):
        scale = float(other.detach().abs().max())
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-12)


@BOTH
def test_scores_are_the_slopes_of_unrolled_training_with_mixing_noise_penalty_adam_and_average(make):
    players = dict(zip(("generator", "discriminator"), small(make), strict=True))
    for module in players.values():
        for k, (name, parameter) in enumerate(module.named_parameters()):
            if "noise" in name:  # weights that start at 0 would leave it out
                torch.nn.init.constant_(parameter, 0.1 * (k + 1))
    data, n, steps = 0.5 * normal(3, 6, 3, 8, 8), 6, 4
    draw = gi.models.style_latents(players["generator"], 0.9)
    schedule = gi.Minibatches(size=n, batch_size=2, latents=draw)
    latents = draw(np.random.default_rng(5), 3)

    def penalty(players, batch, generated):
        return 0, 5 * squared_slopes(players, batch.rows).mean()

    def metric(players):
        return players.generator(latents).square().mean()

    weights = torch.ones(n, dtype=torch.float64, requires_grad=True)
    run = unrolled(
        players,
        gan(lambda a: softplus(-a), softplus, lambda a: softplus(-a), penalty),
        data,
        schedule,
        steps,
        dict.fromkeys(players, textbook_adam(0.002, (0.0, 0.99), 1e-4)),
        cycle_of("alternating", list(players)),
        weights,
        decay={"generator": 0.9},
    )
    value = measured(metric, players, run.seen, run.buffers)
    game = gi.Game(*players.values(), loss="non_saturating", penalties=[gi.penalties.R1(10.0, masked=False)])
    adam = gi.Adam(0.002, betas=(0.0, 0.99), eps=1e-4)
    trace = gi.train(game, data, schedule, steps, adam, update="alternating", ema_decay=0.9)
    assert relative_error(gi.itd(trace, metric), -torch.autograd.grad(value, weights)[0]) < 1e-9
