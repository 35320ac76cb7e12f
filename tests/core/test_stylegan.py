"""StyleGAN: its layers and players against plain SciPy, and public checkpoints of its port."""

import argparse
from math import sqrt

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve
from support.games import normal
from support.plain_images import correlated, filtered, leaky, of_mean_square_one, transposed

import gan_influence as gi
from gan_influence.models.stylegan import _CHANNELS, StyleGANGenerator
from gan_influence.models.styles import channels_of, resolutions
from gan_influence.nn.resampling import Filter
from gan_influence.nn.styles import AdaptiveNorm

STYLE, LAYERS = 6, 2
PORT = {4: 5, 8: 4, 16: 3, 32: 2, 64: 3, 128: 2, 256: 1, 512: 1, 1024: 1}  # channels of a narrow port, as deep as all


def channels(resolution):
    return {size: PORT[size] for size in PORT if size <= resolution}


def players(resolution=16, **settings):
    settings = {"style_size": STYLE, "mapping_layers": LAYERS, "dtype": torch.float64, **settings}
    return gi.models.stylegan(resolution, **{"channels": channels(resolution), **settings})


def drawn(generator, n=3, mixing=1.0, seed=0):
    return gi.models.style_latents(generator, mixing)(np.random.default_rng(seed), n)


def linear_of_port(name, before, after):
    return {f"{name}.weight_orig": (after, before), f"{name}.bias": (after,)}


def conv_of_port(name, before, after, k):
    return {f"{name}.weight_orig": (after, before, k, k), f"{name}.bias": (after,)}


def generator_of_port():
    """Names and shapes of ``StyledGenerator().state_dict()``."""
    shapes = {}
    for k in range(LAYERS):
        shapes |= linear_of_port(f"style.{2 * k + 1}.linear", STYLE, STYLE)
    sizes = list(PORT)
    for b, size in enumerate(sizes):
        name, after = f"generator.progression.{b}", PORT[size]
        if b == 0:
            shapes[f"{name}.conv1.input"] = (1, after, 4, 4)
        else:
            before, fused = PORT[sizes[b - 1]], size >= 128
            blur = 1 if fused else 2
            if fused:
                shapes |= {f"{name}.conv1.0.weight": (before, after, 3, 3), f"{name}.conv1.0.bias": (after,)}
            else:
                shapes |= conv_of_port(f"{name}.conv1.1.conv", before, after, 3)
            shapes |= {f"{name}.conv1.{blur}.{kernel}": (after, 1, 3, 3) for kernel in ("weight", "weight_flip")}
        for i in (1, 2):
            shapes[f"{name}.noise{i}.weight_orig"] = (1, after, 1, 1)
            shapes |= linear_of_port(f"{name}.adain{i}.style.linear", STYLE, 2 * after)
        shapes |= conv_of_port(f"{name}.conv2.conv", after, after, 3)
        shapes |= conv_of_port(f"generator.to_rgb.{b}.conv", after, 3, 1)
    return shapes


def discriminator_of_port():
    """Names and shapes of ``Discriminator(from_rgb_activate=True).state_dict()``."""
    shapes, sizes = {}, sorted(PORT, reverse=True)
    for b, size in enumerate(sizes):
        name, before = f"progression.{b}", PORT[size]
        shapes |= conv_of_port(f"from_rgb.{b}.0.conv", 3, before, 1)
        if size == 4:
            shapes |= conv_of_port(f"{name}.conv1.0.conv", before + 1, before, 3)
            shapes |= conv_of_port(f"{name}.conv2.0.conv", before, before, 4)
            continue
        after = PORT[size // 2]
        shapes |= conv_of_port(f"{name}.conv1.0.conv", before, after, 3)
        shapes |= {f"{name}.conv2.0.weight": (after, 1, 3, 3), f"{name}.conv2.0.weight_flip": (after, 1, 3, 3)}
        if size >= 128:
            shapes |= {f"{name}.conv2.1.weight": (after, after, 3, 3), f"{name}.conv2.1.bias": (after,)}
        else:
            shapes |= conv_of_port(f"{name}.conv2.1.conv", after, after, 3)
    return shapes | linear_of_port("linear.linear", PORT[4], 1)


def random_state(shapes, seed):
    random = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=random, dtype=torch.float64) for name, shape in shapes.items()}


def checkpoint():
    states = [random_state(generator_of_port(), 1), random_state(generator_of_port(), 2)]
    discriminator = random_state(discriminator_of_port(), 3)
    return {"generator": states[0], "discriminator": discriminator, "g_running": states[1], "g_optimizer": {}}


class PlainPort:
    """A port's network of one row, from its state dict."""

    def __init__(self, state):
        self.state = {name: value.numpy() for name, value in state.items()}

    def weight(self, name):
        weight = self.state[f"{name}.weight_orig"]
        return weight * sqrt(2 / weight[0].size), self.state[f"{name}.bias"]

    def fused(self, name, transpose):
        weight = self.state[f"{name}.weight"]
        weight = weight.swapaxes(0, 1) if transpose else weight
        wide = np.stack([[filtered(k[None], (1, 1), 1, 1)[0] for k in of_one] for of_one in weight])
        return wide * sqrt(2 / weight[0].size), self.state[f"{name}.bias"]

    def linear(self, name, x):
        weight, bias = self.weight(name)
        return weight @ x + bias

    def conv(self, name, x, padding):
        weight, bias = self.weight(name)
        return correlated(x, weight, padding) + bias[:, None, None]

    def generate(self, z, crossover, noise, resolution):
        styles = [of_mean_square_one(one) for one in z]
        for k in range(LAYERS):
            styles = [leaky(self.linear(f"style.{2 * k + 1}.linear", style)) for style in styles]
        for b, size in enumerate(channels(resolution)):
            name, style = f"generator.progression.{b}", styles[b > crossover]
            if b == 0:
                x = self.state[f"{name}.conv1.input"][0]
            elif size >= 128:
                weight, bias = self.fused(f"{name}.conv1.0", True)
                x = transposed(x, weight)[:, 1:-1, 1:-1] + bias[:, None, None]
            else:
                x = self.conv(f"{name}.conv1.1.conv", x.repeat(2, 1).repeat(2, 2), 1)
            if b:
                x = filtered(x, (1, 2, 1), 1, 1)
            x = self.styled(name, 1, x, style, noise[b])
            x = self.styled(name, 2, self.conv(f"{name}.conv2.conv", x, 1), style, noise[b])
        return self.conv(f"generator.to_rgb.{b}.conv", x, 0)

    def styled(self, name, i, x, style, noise):
        weight = self.state[f"{name}.noise{i}.weight_orig"][0]
        x = leaky(x + weight * sqrt(2 / len(x)) * noise)
        x = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
        gamma, beta = np.split(self.linear(f"{name}.adain{i}.style.linear", style)[:, None, None], 2)
        return gamma * x + beta

    def discriminate(self, x):
        sizes = sorted(PORT, reverse=True)
        first = sizes.index(x.shape[1])
        x = leaky(self.conv(f"from_rgb.{first}.0.conv", x, 0))
        for b, size in list(enumerate(sizes))[first:-1]:
            name = f"progression.{b}"
            x = filtered(leaky(self.conv(f"{name}.conv1.0.conv", x, 1)), (1, 2, 1), 1, 1)
            if size >= 128:
                weight, bias = self.fused(f"{name}.conv2.1", False)
                x = leaky(correlated(x, weight, 1, 2) + bias[:, None, None])
            else:
                x = self.conv(f"{name}.conv2.1.conv", x, 1)
                x = leaky(filtered(x, (1, 1), 0, 0)[:, ::2, ::2])
        name = f"progression.{len(sizes) - 1}"
        x = leaky(self.conv(f"{name}.conv1.0.conv", np.concatenate([x, np.ones((1, 4, 4))]), 1))
        x = leaky(self.conv(f"{name}.conv2.0.conv", x, 0))
        return self.linear("linear.linear", x[:, 0, 0])


@pytest.mark.parametrize("resolution", [8, 32, 128])
def test_players_of_a_loaded_checkpoint_are_those_of_the_port_computed_plainly(resolution):
    generator, discriminator = players(resolution)
    content = checkpoint()
    gi.models.load_style_checkpoint(content, generator, discriminator)
    latents = drawn(generator, n=2)
    latents["crossover"][1] = 0
    images = generator(latents).detach()
    port = PlainPort(content["g_running"])
    plain = [
        port.generate(z.numpy(), crossover, [one[row].numpy() for one in latents["noise"]], resolution)
        for row, (z, crossover) in enumerate(zip(latents["z"], latents["crossover"], strict=True))
    ]
    np.testing.assert_allclose(images.numpy(), np.stack(plain), rtol=1e-9, atol=1e-9)
    logits = [PlainPort(content["discriminator"]).discriminate(image) for image in images.numpy()]
    np.testing.assert_allclose(discriminator(images).detach().numpy(), np.stack(logits), rtol=1e-9, atol=1e-9)


def test_the_generator_that_was_trained_last_is_loaded_when_asked_for():
    generator, _ = players()
    content = checkpoint()
    gi.models.load_style_checkpoint(content, generator, averaged=False)
    assert torch.equal(generator.mapping[0].weight, content["generator"]["style.1.linear.weight_orig"])


def test_a_checkpoint_is_read_from_a_file(tmp_path):
    content = {**checkpoint(), "args": argparse.Namespace(lr=0.002)}
    torch.save(content, tmp_path / "port.model")
    _, discriminator = players()
    gi.models.load_style_checkpoint(tmp_path / "port.model", discriminator=discriminator)
    assert torch.equal(discriminator.linear.weight, content["discriminator"]["linear.linear.weight_orig"])


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "port.model").write_bytes(b"no")
    with pytest.raises(ValueError, match="no checkpoint that torch can read"):
        gi.models.load_style_checkpoint(tmp_path / "port.model", *players())
    torch.save([1], tmp_path / "list.model")
    with pytest.raises(ValueError, match="holds a list"):
        gi.models.load_style_checkpoint(tmp_path / "list.model", *players())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c.pop("g_running"),
            "has no 'g_running', where the StyleGANGenerator would be: it holds 'gen",
        ),
        (lambda c: c["g_running"].pop("style.1.linear.bias"), "has no 'style.1.linear.bias', which the StyleGAN"),
        (
            lambda c: c["g_running"].update({"generator.to_rgb.2.conv.weight_orig": torch.zeros(3, 9, 1, 1)}),
            r"'generator.to_rgb.2.conv.weight_orig' has shape \(3, 9, 1, 1\), .* needs \(3, 3, 1, 1\) for its 'to_r",
        ),
        (lambda c: c["g_running"].update({"style.5.linear.bias": torch.zeros(6)}), "has a 'style.5.linear.bias', for"),
        (
            lambda c: c["discriminator"].pop("from_rgb.6.0.conv.bias"),
            "'discriminator' has no 'from_rgb.6.0.conv.bias', which .* needs for its 'from_rgb.b",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_its_first_parameter_that_does_not(change, message):
    generator, discriminator = players()
    before = [p.clone() for p in (*generator.parameters(), *discriminator.parameters())]
    content = checkpoint()
    change(content)
    with pytest.raises(ValueError, match=message):
        gi.models.load_style_checkpoint(content, generator, discriminator)
    after = (*generator.parameters(), *discriminator.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_checkpoint_of_lower_resolution_is_refused_by_its_first_missing_block():
    content = checkpoint()
    for name in list(content["g_running"]):
        if name.startswith(("generator.progression.2.", "generator.to_rgb.2.")):
            del content["g_running"][name]
    with pytest.raises(ValueError, match=r"no 'generator.progression.2.conv1.1.conv.weight_orig'.* another resolution"):
        gi.models.load_style_checkpoint(content, players(16)[0])


def test_a_checkpoint_is_for_players_of_these_models():
    with pytest.raises(TypeError, match="neither"):
        gi.models.load_style_checkpoint({})
    with pytest.raises(TypeError, match="Linear"):
        gi.models.load_style_checkpoint({}, torch.nn.Linear(1, 1))


def test_blur_is_scipys_convolution_with_zeros_around_the_images():
    images = normal(0, 2, 3, 6, 5)
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    expected = [[convolve(x, kernel, mode="constant") for x in image] for image in images.numpy()]
    np.testing.assert_allclose(Filter((1, 2, 1), padding=1).double()(images).numpy(), expected, rtol=1e-14)


def test_an_uneven_filter_is_convolved_and_not_correlated():
    images = normal(0, 1, 1, 6, 6)
    kernel = np.outer([1, 2, 5], [1, 2, 5]) / 64
    expected = convolve(images[0, 0].numpy(), kernel, mode="constant")
    np.testing.assert_allclose(Filter((1, 2, 5), padding=1).double()(images)[0, 0].numpy(), expected, rtol=1e-14)


def test_adaptive_norm_is_instance_norm_with_the_styles_gamma_and_beta():
    layer = AdaptiveNorm(3, 4).double()
    with torch.no_grad():
        layer.style.weight.copy_(normal(0, 6, 4))
        layer.style.bias.copy_(normal(1, 6))
    images, style = normal(2, 2, 3, 4, 5), normal(3, 2, 4)
    gamma, beta = layer.style(style)[:, :, None, None].chunk(2, 1)
    expected = gamma * torch.nn.functional.instance_norm(images) + beta
    torch.testing.assert_close(layer(images, style), expected, rtol=1e-12, atol=1e-12)


def test_no_convolution_is_fused_below_128_pixels():
    of_32, of_128 = (players(resolution, channels=2) for resolution in (32, 128))
    fused = [[name for name, part in p.named_modules() if "Fused" in type(part).__name__] for p in (*of_32, *of_128)]
    assert fused == [[], [], ["blocks.5.conv1.0"], ["blocks.0.conv2"]]


def test_published_channels_are_512_up_to_32_pixels_and_then_half_as_many_each_time():
    with torch.device("meta"):
        generator = StyleGANGenerator(channels_of(None, resolutions(256), _CHANNELS), 3, 512, 8)
    assert [len(block.conv2.bias) for block in generator.blocks] == [512, 512, 512, 512, 256, 128, 64]
    assert generator.noise_sizes == (4, 8, 16, 32, 64, 128, 256)


def test_a_checkpoint_is_loaded_before_adapters_are_added():
    generator, _ = players()
    torch.nn.utils.parametrize.register_parametrization(generator.to_rgb, "weight", torch.nn.Identity())
    with pytest.raises(
        ValueError, match=r"'to_rgb.parametrizations.weight.original' of its own: load a checkpoint bef"
    ):
        gi.models.load_style_checkpoint(checkpoint(), generator)
