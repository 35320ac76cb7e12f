"""Augmentation by numbers that the batch brings along, against plain loops over pixels."""

import math

import pytest
import torch
from support.games import normal
from torch.autograd import gradcheck, gradgradcheck
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx

import gan_influence as gi
from gan_influence.nn import augment, diff_augment

KINDS = {"brightness": 1, "saturation": 1, "contrast": 1, "translation": 2, "cutout": 2, "flip": 1}
EXTREMES = (0.0, 0.499, 0.5, 1 - 2**-53)
each_kind = pytest.mark.parametrize("kind", KINDS)


def uniform(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_loops(kind, image, u):
    """One image ``(c, h, w)``, pixel by pixel, from the published definition with the draws written out."""
    channels, height, width = image.shape
    x, out = image.tolist(), torch.empty_like(image)
    pixels = [(k, i, j) for k in range(channels) for i in range(height) for j in range(width)]
    mean = sum(x[k][i][j] for k, i, j in pixels) / len(pixels)
    if kind == "translation":
        most = [math.floor(size / 8 + 0.5) for size in (height, width)]
        a, b = (math.floor(u[d] * (2 * most[d] + 1)) - most[d] for d in (0, 1))
    if kind == "cutout":
        sizes = (height, width)
        cut = [math.floor(size / 2 + 0.5) for size in sizes]
        offset = [math.floor(u[d] * (sizes[d] + 1 - cut[d] % 2)) for d in (0, 1)]
        gone = [
            {min(max(k + offset[d] - cut[d] // 2, 0), sizes[d] - 1) for k in range(cut[d])}  # clamped, as published
            for d in (0, 1)
        ]
    for k, i, j in pixels:
        here, grey = x[k][i][j], sum(x[c][i][j] for c in range(channels)) / channels
        if kind == "brightness":
            out[k, i, j] = here + u[0] - 0.5
        elif kind == "saturation":
            out[k, i, j] = grey + 2 * u[0] * (here - grey)
        elif kind == "contrast":
            out[k, i, j] = mean + (u[0] + 0.5) * (here - mean)
        elif kind == "translation":
            inside = 0 <= i + a < height and 0 <= j + b < width
            out[k, i, j] = x[k][i + a][j + b] if inside else 0.0
        elif kind == "cutout":
            out[k, i, j] = 0.0 if i in gone[0] and j in gone[1] else here
        else:
            out[k, i, j] = x[k][i][width - 1 - j] if u[0] >= 0.5 else here
    return out


@each_kind
@pytest.mark.parametrize("size", [(5, 7), (8, 12), (1, 2)], ids=str)
def test_each_augmentation_equals_a_loop_over_pixels(kind, size):
    n = 40
    images, noise = normal(0, n, 3, *size), uniform(1, n, KINDS[kind])
    for row, number in enumerate(EXTREMES):
        noise[row] = number
    found = getattr(augment, kind)(images, noise)
    expected = torch.stack([by_loops(kind, image, u.tolist()) for image, u in zip(images, noise, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_translations_and_rectangles_are_all_drawn_equally_often():
    n = 40_000
    images = torch.arange(1, 9, dtype=torch.float64).expand(n, 1, 8, 8)
    moved = augment.translation(images, uniform(0, n, 2))[:, 0, 4, 4] - 5
    assert sorted(set(moved.tolist())) == [-1.0, 0.0, 1.0]
    assert (moved == 1).double().mean() == pytest.approx(1 / 3, abs=0.01)
    first = (augment.cutout(images, uniform(1, n, 2)) == 0)[:, 0].any(1).double().argmax(1)  # column
    assert (first == 6).double().mean() == pytest.approx(1 / 9, abs=0.01)  # the rectangle begins there at offset 8


def test_a_policy_is_its_augmentations_in_order_each_with_its_own_numbers():
    images, noise = normal(0, 6, 3, 8, 8), uniform(1, 6, 7)
    expected = images
    for kind, columns in (("brightness", [0]), ("saturation", [1]), ("contrast", [2])):
        expected = getattr(augment, kind)(expected, noise[:, columns])
    expected = augment.cutout(augment.translation(expected, noise[:, 3:5]), noise[:, 5:])
    assert torch.equal(diff_augment(images, noise), expected)
    assert torch.equal(diff_augment(images, noise, "color, translation,cutout"), expected)
    assert augment.numbers() == 7
    assert augment.numbers("flip,color") == 4


@pytest.mark.parametrize("kind", [*KINDS, "color"])
def test_no_image_depends_on_another_or_on_its_numbers(kind):
    images, noise = normal(0, 5, 3, 8, 9), uniform(1, 5, augment.numbers(kind))
    together = diff_augment(images, noise, kind)
    for row in range(5):
        alone = diff_augment(images[row : row + 1], noise[row : row + 1], kind)
        torch.testing.assert_close(alone[0], together[row], rtol=1e-13, atol=1e-13)


@each_kind
def test_equal_images_with_equal_numbers_stay_equal(kind):
    images, noise = normal(0, 1, 3, 8, 8).expand(4, -1, -1, -1), uniform(1, 1, KINDS[kind]).expand(4, -1)
    found = getattr(augment, kind)(images, noise)
    torch.testing.assert_close(found, found[:1].expand_as(found), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("kind", [*KINDS, "color,translation,cutout,flip"])
def test_derivatives_of_three_orders_are_right(kind):
    images, noise = normal(0, 2, 3, 8, 3).requires_grad_(), uniform(1, 2, augment.numbers(kind))

    def bent(images):
        return diff_augment(images, noise, kind).tanh()

    def slope(images):
        return torch.autograd.grad(bent(images).square().sum(), images, create_graph=True)[0]

    assert gradcheck(bent, images)
    assert gradgradcheck(bent, images)
    assert gradgradcheck(slope, images)


@pytest.mark.parametrize("kind", [*KINDS, "color,translation,cutout,flip"])
def test_it_stacks_and_is_recorded_without_its_numbers(kind):
    images, noise = normal(0, 3, 2, 3, 8, 9), uniform(1, 3, 2, augment.numbers(kind))

    def slope(images, noise):
        return torch.func.grad(lambda x: diff_augment(x, noise, kind).tanh().square().sum())(images)

    apart = torch.stack([slope(*one) for one in zip(images, noise, strict=True)])
    torch.testing.assert_close(vmap(slope)(images, noise), apart, rtol=1e-13, atol=1e-13)
    recorded = make_fx(slope, tracing_mode="fake")(images[0], noise[0])
    torch.testing.assert_close(recorded(images[1], noise[1]), apart[1], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", [*KINDS, "color"])
def test_single_precision_stays_and_a_number_rounded_to_1_is_the_last(kind):
    images = normal(0, 2, 3, 8, 8).float()
    noise = torch.full((2, augment.numbers(kind)), 1 - 2**-53, dtype=torch.float64)
    found = diff_augment(images, noise, kind)
    assert found.dtype == torch.float32
    torch.testing.assert_close(diff_augment(images, noise.float(), kind), found)


@each_kind
def test_what_it_is_given_stays(kind):
    images, noise = normal(0, 2, 3, 8, 8), uniform(1, 2, KINDS[kind])
    before = images.clone(), noise.clone()
    getattr(augment, kind)(images, noise)
    assert torch.equal(images, before[0])
    assert torch.equal(noise, before[1])


@each_kind
@pytest.mark.parametrize("shape", [(2,), (2, 3), (3, 2), (2, 1, 1)], ids=str)
def test_noise_of_another_shape_is_refused(kind, shape):
    with pytest.raises(ValueError, match=rf"{kind} takes {KINDS[kind]} .*got \({str(shape)[1:-1]}\)"):
        getattr(augment, kind)(normal(0, 2, 3, 8, 8), uniform(1, *shape))


def test_a_policy_says_how_many_numbers_it_takes():
    with pytest.raises(ValueError, match=r"takes 5 numbers an image, noise of shape \(2, 5\), got \(2, 7\)"):
        diff_augment(normal(0, 2, 3, 8, 8), uniform(1, 2, 7), ("color", "cutout"))


def test_unknown_names_and_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="'rotation'; the augmentations are brightness"):
        gi.nn.diff_augment(normal(0, 2, 3, 8, 8), uniform(1, 2, 1), "rotation")
    with pytest.raises(ValueError, match=r"images must be .* got shape \(3, 8, 8\)"):
        gi.nn.augment.flip(normal(0, 3, 8, 8), uniform(1, 3, 1))
