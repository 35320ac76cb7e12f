"""StyleGAN2: its layers and players against plain SciPy and per-row kernels, and public checkpoints of its port."""

from math import sqrt

import numpy as np
import pytest
import torch
from support.games import normal
from support.plain_images import correlated, filtered, leaky, of_mean_square_one, transposed, with_zeros_between
from torch.nn.functional import conv2d, conv_transpose2d

import gan_influence as gi
from gan_influence.nn.deviation import with_deviation, with_deviation_beside
from gan_influence.nn.styles import ModulatedConvolution

STYLE, LAYERS = 6, 2
CHANNELS = {4: 5, 8: 4, 16: 3, 32: 2}
BLUR = (1, 3, 3, 1)


def channels(resolution):
    return {size: CHANNELS[size] for size in CHANNELS if size <= resolution}


def players(resolution=16, **settings):
    settings = {"style_size": STYLE, "mapping_layers": LAYERS, "dtype": torch.float64, **settings}
    return gi.models.stylegan2(resolution, **{"channels": channels(resolution), **settings})


def drawn(generator, n=2):
    return gi.models.style_latents(generator, 1.0)(np.random.default_rng(0), n)


def linear_of_port(name, before, after):
    return {f"{name}.weight": (after, before), f"{name}.bias": (after,)}


def modulated_of_port(name, before, after, k):
    return {f"{name}.weight": (1, after, before, k, k), **linear_of_port(f"{name}.modulation", STYLE, before)}


def styled_of_port(name, before, after):
    return modulated_of_port(f"{name}.conv", before, after, 3) | {
        f"{name}.noise.weight": (1,),
        f"{name}.activate.bias": (after,),
    }


def generator_of_port(resolution):
    """Names and shapes of ``Generator(resolution, STYLE, LAYERS).state_dict()``, without its filters."""
    shapes = {"input.input": (1, CHANNELS[4], 4, 4), "noises.noise_0": (1, 1, 4, 4)}
    for k in range(LAYERS):
        shapes |= linear_of_port(f"style.{k + 1}", STYLE, STYLE)
    shapes |= styled_of_port("conv1", CHANNELS[4], CHANNELS[4])
    shapes |= modulated_of_port("to_rgb1.conv", CHANNELS[4], 3, 1) | {"to_rgb1.bias": (1, 3, 1, 1)}
    for j, size in enumerate(list(channels(resolution))[1:]):
        before, after = CHANNELS[size // 2], CHANNELS[size]
        shapes |= styled_of_port(f"convs.{2 * j}", before, after) | styled_of_port(f"convs.{2 * j + 1}", after, after)
        shapes |= modulated_of_port(f"to_rgbs.{j}.conv", after, 3, 1) | {f"to_rgbs.{j}.bias": (1, 3, 1, 1)}
        shapes |= {f"noises.noise_{2 * j + i}": (1, 1, size, size) for i in (1, 2)}
    return shapes


def discriminator_of_port(resolution):
    """Names and shapes of ``Discriminator(resolution).state_dict()``, without its filters."""
    shapes = {"convs.0.0.weight": (CHANNELS[resolution], 3, 1, 1), "convs.0.1.bias": (CHANNELS[resolution],)}
    for b, size in enumerate(sorted(channels(resolution), reverse=True)[:-1]):
        name, before, after = f"convs.{b + 1}", CHANNELS[size], CHANNELS[size // 2]
        shapes |= {f"{name}.conv1.0.weight": (before, before, 3, 3), f"{name}.conv1.1.bias": (before,)}
        shapes |= {f"{name}.conv2.1.weight": (after, before, 3, 3), f"{name}.conv2.2.bias": (after,)}
        shapes |= {f"{name}.skip.1.weight": (after, before, 1, 1)}
    last = CHANNELS[4]
    shapes |= {"final_conv.0.weight": (last, last + 1, 3, 3), "final_conv.1.bias": (last,)}
    return shapes | linear_of_port("final_linear.0", 16 * last, last) | linear_of_port("final_linear.1", last, 1)


def filters_of_port(resolution):
    kernel = torch.outer(torch.tensor(BLUR), torch.tensor(BLUR)).double() / 64
    blocks = range(len(channels(resolution)) - 1)
    of_generator = {f"convs.{2 * j}.conv.blur.kernel": 4 * kernel for j in blocks}
    of_generator |= {f"to_rgbs.{j}.upsample.kernel": 4 * kernel for j in blocks}
    return of_generator, {f"convs.{j + 1}.{name}.0.kernel": kernel for j in blocks for name in ("conv2", "skip")}


def random_state(shapes, seed):
    random = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=random, dtype=torch.float64) for name, shape in shapes.items()}


def checkpoint(resolution=16):
    of_generator, of_discriminator = filters_of_port(resolution)
    trained, averaged = (random_state(generator_of_port(resolution), seed) | of_generator for seed in (1, 2))
    discriminator = random_state(discriminator_of_port(resolution), 3) | of_discriminator
    return {"g": trained, "d": discriminator, "g_ema": averaged, "g_optim": {}, "latent_avg": torch.zeros(STYLE)}


class PlainPort:
    """A port's network of one row, from its state dict: with kernels of the row's own."""

    def __init__(self, state):
        self.state = {name: value.numpy() for name, value in state.items()}

    def linear(self, name, x, rate=1.0):
        weight = self.state[f"{name}.weight"]
        return rate * (weight @ x / sqrt(len(x)) + self.state[f"{name}.bias"])

    def modulated(self, name, x, style, demodulate=True, doubles=False):
        weight = self.state[f"{name}.weight"][0]
        weight = weight / sqrt(weight[0].size) * self.linear(f"{name}.modulation", style)[:, None, None]
        if demodulate:
            weight = weight / np.sqrt((weight**2).sum((1, 2, 3), keepdims=True) + 1e-8)
        if not doubles:
            return correlated(x, weight, weight.shape[-1] // 2)
        return filtered(transposed(x, weight), BLUR, 1, 1, 4)

    def styled(self, name, x, style, noise, doubles=False):
        x = self.modulated(f"{name}.conv", x, style, doubles=doubles) + self.state[f"{name}.noise.weight"] * noise
        return self.rectified(x, f"{name}.activate")

    def rectified(self, x, name):
        return leaky(x + self.state[f"{name}.bias"][:, None, None]) * sqrt(2)

    def generate(self, z, crossover, noise):
        styles = [of_mean_square_one(one) for one in z]
        for k in range(LAYERS):
            styles = [leaky(self.linear(f"style.{k + 1}", style, 0.01)) * sqrt(2) for style in styles]
        style = [styles[i > crossover] for i in range(2 * len(CHANNELS))]
        x = self.styled("conv1", self.state["input.input"][0], style[0], noise[0])
        colours = self.modulated("to_rgb1.conv", x, style[1], demodulate=False) + self.state["to_rgb1.bias"][0]
        for j in range(len(noise) // 2):
            x = self.styled(f"convs.{2 * j}", x, style[2 * j + 1], noise[2 * j + 1], doubles=True)
            x = self.styled(f"convs.{2 * j + 1}", x, style[2 * j + 2], noise[2 * j + 2])
            own = self.modulated(f"to_rgbs.{j}.conv", x, style[2 * j + 3], demodulate=False)
            colours = filtered(with_zeros_between(colours), BLUR, 2, 1, 4) + own + self.state[f"to_rgbs.{j}.bias"][0]
        return colours

    def conv(self, name, x, padding=0, stride=1):
        weight = self.state[f"{name}.weight"]
        return correlated(x, weight / sqrt(weight[0].size), padding, stride)

    def discriminate(self, x):
        blocks = len(channels(x.shape[1])) - 1
        x = self.rectified(self.conv("convs.0.0", x), "convs.0.1")
        for b in range(blocks):
            name = f"convs.{b + 1}"
            skip = self.conv(f"{name}.skip.1", filtered(x, BLUR, 1, 1), stride=2)
            x = self.rectified(self.conv(f"{name}.conv1.0", x, 1), f"{name}.conv1.1")
            x = self.rectified(self.conv(f"{name}.conv2.1", filtered(x, BLUR, 2, 2), stride=2), f"{name}.conv2.2")
            x = (x + skip) / sqrt(2)
        x = np.concatenate([x, np.ones((1, 4, 4))])
        x = self.rectified(self.conv("final_conv.0", x, 1), "final_conv.1")
        x = leaky(self.linear("final_linear.0", x.reshape(-1))) * sqrt(2)
        return self.linear("final_linear.1", x)


@pytest.mark.parametrize("resolution", [8, 32])
def test_players_of_a_loaded_checkpoint_are_those_of_the_port_computed_plainly(resolution):
    generator, discriminator = players(resolution)
    content = checkpoint(resolution)
    gi.models.load_style_checkpoint(content, generator, discriminator)
    latents = drawn(generator)
    latents["crossover"][1] = 1
    images = generator(latents).detach()
    plain = [
        PlainPort(content["g_ema"]).generate(z.numpy(), crossover, [one[row].numpy() for one in latents["noise"]])
        for row, (z, crossover) in enumerate(zip(latents["z"], latents["crossover"], strict=True))
    ]
    np.testing.assert_allclose(images.numpy(), np.stack(plain), rtol=1e-9, atol=1e-9)
    logits = [PlainPort(content["d"]).discriminate(image) for image in images.numpy()]
    np.testing.assert_allclose(discriminator(images).detach().numpy(), np.stack(logits), rtol=1e-9, atol=1e-9)


def test_the_generator_that_was_trained_last_is_loaded_when_asked_for():
    generator, _ = players()
    content = checkpoint()
    gi.models.load_style_checkpoint(content, generator, averaged=False)
    assert torch.equal(generator.to_rgbs[0].conv.weight, content["g"]["to_rgb1.conv.weight"][0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("d"), "has no 'd', where the StyleGAN2Discriminator would be: it holds 'g', 'g_ema'"),
        (
            lambda c: c["g_ema"].pop("convs.1.activate.bias"),
            "has no 'convs.1.activate.bias', which .* 'convs.2.bias'",
        ),
        (
            lambda c: c["g_ema"].update({"to_rgb1.bias": torch.zeros(3)}),
            r"'to_rgb1.bias' has shape \(3,\), but",
        ),
        (
            lambda c: c["d"].update({"convs.1.skip.1.bias": torch.zeros(3)}),
            "'d' has a 'convs.1.skip.1.bias', for",
        ),
        (
            lambda c: c["d"].update({"convs.1.skip.0.kernel": torch.ones(4, 4)}),
            "'convs.1.skip.0.kernel' is another filter than the StyleGAN2Discriminator's",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_its_first_parameter_that_does_not(change, message):
    content = checkpoint()
    change(content)
    with pytest.raises(ValueError, match=message):
        gi.models.load_style_checkpoint(content, *players())


def test_a_checkpoint_of_another_resolution_or_model_is_refused():
    with pytest.raises(ValueError, match=r"'g_ema' has a 'convs.4.conv.weight', for which .* another res"):
        gi.models.load_style_checkpoint(checkpoint(32), players(16)[0])
    with pytest.raises(ValueError, match=r"'convs.0.0.weight' has shape \(2, 3, 1, 1\), .* for its 'from_rgb"):
        gi.models.load_style_checkpoint(checkpoint(32), discriminator=players(16)[1])
    with pytest.raises(
        ValueError, match=r"'g_ema' has no 'convs.4.activate.bias', .* for its 'convs.5.bias': .* another resolution"
    ):
        gi.models.load_style_checkpoint(checkpoint(16), players(32)[0])
    of_stylegan, _ = gi.models.stylegan(8, channels=2, style_size=2)
    with pytest.raises(ValueError, match="has no 'g_running', where the StyleGANGenerator would be"):
        gi.models.load_style_checkpoint(checkpoint(), of_stylegan)


@pytest.mark.parametrize("doubles", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_a_modulated_convolution_is_that_of_a_kernel_a_row(demodulate, doubles):
    layer = ModulatedConvolution(3, 4, 3, 5, demodulate=demodulate, doubles=doubles).double()
    with torch.no_grad():
        for k, parameter in enumerate(layer.parameters()):
            parameter.copy_(normal(k, *parameter.shape))
    images, style = normal(7, 2, 3, 6, 6), normal(8, 2, 5)
    expected = []
    for image, own in zip(images, style, strict=True):
        s = layer.modulation.weight @ own / sqrt(5) + layer.modulation.bias
        kernel = layer.weight / sqrt(27) * s[:, None, None]
        if demodulate:
            kernel = kernel / (kernel.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if doubles:
            expected.append(conv_transpose2d(image[None], kernel.transpose(0, 1), stride=2)[0])
        else:
            expected.append(conv2d(image[None], kernel, padding=1)[0])
    torch.testing.assert_close(layer(images, style), torch.stack(expected), rtol=1e-12, atol=1e-12)


def test_the_deviation_is_that_of_every_second_row_of_eight_in_groups_of_four():
    images = normal(0, 8, 3, 2, 2)
    channel = with_deviation(images, 4)[:, 3]
    for row in range(8):
        group = images[row % 2 :: 2].numpy()
        expected = np.sqrt(group.var(0) + 1e-8).mean()
        np.testing.assert_allclose(channel[row].numpy(), expected, rtol=1e-12)
    assert torch.equal(with_deviation(images, 4)[:, :3], images)


@pytest.mark.parametrize("n", [8, 3, 1])
def test_beside_companions_an_image_takes_the_place_of_one_in_its_group(n):
    images, companions = normal(0, n, 3, 2, 2), normal(1, 8, 3, 2, 2)
    found = with_deviation_beside(images, companions, 4)
    for row in range(n):
        group = np.array([images[row] if k == row else companions[k] for k in range(row % 2, 8, 2)])
        expected = np.sqrt(group.var(0) + 1e-8).mean()
        np.testing.assert_allclose(found[row, 3].numpy(), expected, rtol=1e-12)
    assert torch.equal(found[:, :3], images)


def test_beside_companions_rows_do_not_interact():
    _, discriminator = players(stddev="group")
    images, companions = normal(0, 8, 3, 16, 16), normal(1, 8, 3, 16, 16)
    torch.testing.assert_close(discriminator(images, images), discriminator(images), rtol=1e-12, atol=1e-12)
    before = discriminator(images, companions)
    changed = torch.cat([images[:5], normal(2, 1, 3, 16, 16), images[6:]])
    moved = (discriminator(changed, companions) - before).abs()[:, 0] > 1e-9
    assert moved.tolist() == [k == 5 for k in range(8)]
    assert ((discriminator(images) - before).abs() > 1e-9).all()


@pytest.mark.parametrize(
    ("stddev", "n", "m", "message"),
    [
        ("group", 4, 6, "4 rows need a multiple of 4 companions, at least as many as they are, got 6"),
        ("group", 6, 4, "6 rows need a multiple of 4 companions, at least as many as they are, got 4"),
        ("constant", 4, 4, "a discriminator with stddev='constant' does not look at"),
    ],
)
def test_companions_that_make_no_groups_are_refused(stddev, n, m, message):
    _, discriminator = players(8, stddev=stddev)
    with pytest.raises(ValueError, match=message):
        discriminator(normal(0, n, 3, 8, 8), normal(1, m, 3, 8, 8))


def test_rows_that_fill_no_groups_are_refused():
    _, discriminator = players(stddev="group")
    with pytest.raises(ValueError, match=r"groups of 4 rows, which 6 rows do not fill.* a multiple of 4, or take"):
        discriminator(normal(0, 6, 3, 16, 16))
    assert discriminator(normal(0, 3, 3, 16, 16)).shape == (3, 1)


def train(stddev, **settings):
    generator, discriminator = players(8, stddev=stddev)
    game = gi.Game(generator, discriminator, **settings)
    schedule = gi.Minibatches(size=8, batch_size=4, latents=gi.models.style_latents(generator))
    return gi.train(game, normal(0, 8, 3, 8, 8), schedule, 1, gi.SGD(0.01))


def test_training_refuses_a_deviation_that_mixes_real_rows():
    with pytest.raises(ValueError, match=r"the discriminator gives row 0 .* uses batch statistics"):
        train("group")
    assert train("group", rows_interact=True).steps == 1


def test_training_takes_a_discriminator_that_looks_at_each_row_alone():
    assert train("constant").steps == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blur": (1, 2, 1)}, r"blur must be an even number of taps, such as \(1, 3, 3, 1\), got \(1, 2, 1\)"),
        ({"blur": (1, -1)}, "the taps of a filter must be numbers whose sum is not 0"),
        ({"blur": ()}, "the taps of a filter must be numbers"),
        ({"stddev": "batch"}, "stddev must be 'constant' or 'group', got 'batch'"),
    ],
)
def test_settings_that_make_no_model_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        players(**settings)


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1), (1, 5, 10, 10, 5, 1)])
def test_any_even_number_of_taps_keeps_the_sizes(taps):
    generator, discriminator = players(16, blur=taps)
    images = generator(drawn(generator))
    assert images.shape == (2, 3, 16, 16)
    assert discriminator(images).shape == (2, 1)
