"""Layers with hand-written derivatives, beside torch's own layers and beside their definitions."""

import itertools
import re

import pytest
import torch
from support.games import normal
from torch import nn
from torch.autograd import grad, gradgradcheck
from torch.func import functional_call, vmap

from gan_influence.nn import Convolution, Deconvolution, ImageNorm, Sigmoid, convolution, layouts
from gan_influence.replay.graph import traced

EXACT, SINGLE = 1e-12, 2e-5  # relative, in float64 and float32
CHANNELS = ((1, 1), (1, 3), (3, 1), (2, 3))
OURS_AND_TORCHS = {
    **{
        f"{'de' if ours is Deconvolution else ''}convolution-{before}-to-{after}-kernel-{kernel}-stride-{stride}": (
            lambda ours=ours, torchs=torchs, of=(before, after, kernel, stride): (ours(*of), torchs(*of))
        )
        for ours, torchs in ((Convolution, nn.Conv2d), (Deconvolution, nn.ConvTranspose2d))
        for before, after in CHANNELS
        for kernel in (1, 2, 3, 4)
        for stride in (1, 2)
    },
    **{
        f"norm-{channels}": lambda channels=channels: (ImageNorm(channels), nn.GroupNorm(1, channels))
        for channels in (1, 3)
    },
}
FEW = {  # a convolution of each kind: torch's own, one channel, single pixels; stride 2 over single pixels
    name: OURS_AND_TORCHS[name]
    for name in (
        "convolution-2-to-3-kernel-3-stride-2",
        "convolution-1-to-3-kernel-2-stride-2",
        "convolution-3-to-1-kernel-1-stride-1",
        "convolution-2-to-3-kernel-1-stride-2",
        "deconvolution-2-to-3-kernel-3-stride-2",
        "deconvolution-1-to-3-kernel-2-stride-1",
        "norm-3",
    )
}
each_layer = pytest.mark.parametrize("pair", OURS_AND_TORCHS.values(), ids=OURS_AND_TORCHS)
each_kind = pytest.mark.parametrize("pair", FEW.values(), ids=FEW)


@pytest.fixture(params=[False, True], ids=["channels-first", "channels-last"])
def laid_out(request, monkeypatch):
    """As in float64, and as in float32 on a CPU, where the channels come last; with numbers of float64 in both."""
    monkeypatch.setattr(layouts, "channels_go_last", lambda images: request.param)


either_layout = pytest.mark.usefixtures("laid_out")


def channels_of(layer):
    """Of its images."""
    return getattr(layer, "in_channels", None) or layer.num_channels


def made(pair, dtype=torch.float64):
    """Both layers with the same parameters, all of them random; and images for them, rectangular."""
    ours, torchs = (layer.to(dtype) for layer in pair())
    for k, parameter in enumerate(ours.parameters()):
        parameter.data = normal(10 + k, *parameter.shape).to(dtype)
    torchs.load_state_dict(ours.state_dict())
    images = 2 * normal(1, 3, channels_of(ours), 6, 9, mean=0.5).to(dtype)
    return ours, torchs, images


def call(layer):
    """``(images, weight, bias) -> images``."""
    return lambda images, weight, bias: functional_call(layer, {"weight": weight, "bias": bias}, (images,))


def parameters_of(layer, *stacked):
    """Its weight and bias; or random ones for as many models."""
    return [
        normal(20 + k, *stacked, *parameter.shape) if stacked else parameter.detach()
        for k, parameter in enumerate((layer.weight, layer.bias))
    ]


def derivatives(function, *inputs, wanted=None, layout=torch.clone):
    """``{name: tensor}``: ``y``, ``d <g, y>``, and the derivatives of ``<h, d <g, y>>``, also by g; h and g random.

    The function is called with copies, of which those ``wanted`` require gradients; g lies in memory in ``layout``.
    """
    leaves = [one.detach().clone().requires_grad_(wanted is None or k in wanted) for k, one in enumerate(inputs)]
    moving = [leaf for leaf in leaves if leaf.requires_grad]
    value = function(*leaves)
    g = layout(normal(5, *value.shape).to(value)).requires_grad_()
    first = grad(value, moving, g, create_graph=True)
    directions = [normal(30 + k, *one.shape).to(one) for k, one in enumerate(first)]
    second = grad(first, [*moving, g], directions, materialize_grads=True)
    named = {"value": value} | {f"first {k}": one for k, one in enumerate(first)}
    return {name: one.detach() for name, one in (named | {f"second {k}": one for k, one in enumerate(second)}).items()}


def assert_same(actual, expected, tolerance=EXACT):
    """To a part ``tolerance`` of the expected norm; of the same shape."""
    assert actual.keys() == expected.keys()
    for name, one in expected.items():
        assert actual[name].shape == one.shape, name
        assert actual[name].dtype == one.dtype, name
        error = (actual[name] - one).norm()
        assert error <= tolerance * one.norm(), f"{name}: {float(error / one.norm())}"


# Values, first and second derivatives


@each_layer
@either_layout
def test_values_and_derivatives_equal_those_of_torchs_layer(pair):
    ours, torchs, images = made(pair)
    inputs = images, ours.weight, ours.bias
    assert_same(derivatives(call(ours), *inputs), derivatives(call(torchs), *inputs))


@each_layer
def test_in_float32_too(pair):
    ours, _, images = made(pair, torch.float32)
    _, exact, _ = made(pair)
    exact.load_state_dict(ours.double().state_dict())
    expected = derivatives(call(exact), images.double(), exact.weight, exact.bias)
    ours.float()
    actual = derivatives(call(ours), images, ours.weight, ours.bias)
    assert {one.dtype for one in actual.values()} == {torch.float32}
    scale = max(one.norm() for one in expected.values())  # some are differences of larger ones
    for name, one in expected.items():
        assert (actual[name] - one).norm() <= SINGLE * (one.norm() + 0.01 * scale), name


def spaced(offset, count, stride):
    return slice(offset, offset + stride * (count - 1) + 1, stride)


def convolution_by_definition(images, kernel, bias, stride):
    """``y[o, i, j] = b[o] + sum_ckm w[o, c, k, m] x[c, s i + k, s j + m]``."""
    (rows, columns), (high, wide) = images.shape[2:], kernel.shape[2:]
    height, width = (rows - high) // stride + 1, (columns - wide) // stride + 1
    total = bias[:, None, None].expand(len(images), -1, height, width)
    for k, m in itertools.product(range(high), range(wide)):
        seen = images[:, :, spaced(k, height, stride), spaced(m, width, stride)]
        total = total + torch.einsum("nchw,oc->nohw", seen, kernel[:, :, k, m])
    return total


def deconvolution_by_definition(images, kernel, bias, stride):
    """``y[o, s i + k, s j + m] += w[c, o, k, m] x[c, i, j]``, onto the bias."""
    (rows, columns), (high, wide) = images.shape[2:], kernel.shape[2:]
    size = stride * (rows - 1) + high, stride * (columns - 1) + wide
    total = bias[:, None, None].expand(len(images), -1, *size).clone()
    for k, m in itertools.product(range(high), range(wide)):
        spread = torch.einsum("nchw,co->nohw", images, kernel[:, :, k, m])
        total[:, :, spaced(k, rows, stride), spaced(m, columns, stride)] += spread
    return total


def norm_by_definition(images, gain, bias, eps=1e-5):
    """``x^ = (x - mean) / sqrt(var + eps)`` of each image, then a gain and a bias for each channel."""
    centred = images - images.mean((1, 2, 3), keepdim=True)
    standard = centred / (centred.square().mean((1, 2, 3), keepdim=True) + eps).sqrt()
    return standard * gain[:, None, None] + bias[:, None, None]


@each_layer
@either_layout
def test_values_and_derivatives_equal_those_of_the_definition(pair):
    ours, _, images = made(pair)
    inputs = images, ours.weight, ours.bias
    if isinstance(ours, ImageNorm):
        expected = derivatives(norm_by_definition, *inputs)
    else:
        define = deconvolution_by_definition if isinstance(ours, Deconvolution) else convolution_by_definition
        expected = derivatives(lambda *of: define(*of, ours.stride[0]), *inputs)
    assert_same(derivatives(call(ours), *inputs), expected)


TINY = {
    "convolution": (lambda: Convolution(2, 2, 2), (1, 2, 2, 3)),
    "one-channel": (lambda: Convolution(1, 2, 2), (1, 1, 2, 3)),
    "single-pixels": (lambda: Convolution(2, 1, 1), (1, 2, 1, 2)),
    "deconvolution": (lambda: Deconvolution(2, 1, 2, 2), (1, 2, 1, 2)),
    "norm": (lambda: ImageNorm(2), (1, 2, 2, 1)),
}


@pytest.mark.parametrize(("make", "shape"), TINY.values(), ids=TINY)
def test_second_derivatives_pass_torchs_check_by_finite_differences(make, shape):
    layer = make().double()
    inputs = [normal(1, *shape), normal(2, *layer.weight.shape), normal(3, *layer.bias.shape)]
    assert gradgradcheck(call(layer), [one.requires_grad_() for one in inputs])


def test_the_norms_second_derivatives_are_the_limit_of_central_differences_of_second_order():
    layer = ImageNorm(3).double()
    inputs = [normal(1, 2, 3, 4, 2), normal(2, 3), normal(3, 3), normal(4, 2, 3, 4, 2)]
    ways = [normal(10 + k, *one.shape) for k, one in enumerate(inputs)]
    directions = [normal(20 + k, *one.shape) for k, one in enumerate(inputs[:3])]

    def slope(step, create_graph=False):
        """``<h, d <g, y>>`` from inputs that are moved that far."""
        *leaves, g = [one + step * way for one, way in zip(inputs, ways, strict=True)]
        leaves = [one if one.requires_grad else one.requires_grad_() for one in leaves]
        first = grad(call(layer)(*leaves), leaves, g, create_graph=create_graph)
        return sum(torch.sum(h * one) for h, one in zip(directions, first, strict=True))

    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (exact,) = grad(slope(step, create_graph=True), step)
    errors = [float((slope(h) - slope(-h)) / (2 * h) - exact) for h in (4e-3, 2e-3, 1e-3)]
    assert abs(errors[0]) < 1e-2 * abs(float(exact))
    for one, other in itertools.pairwise(errors):
        assert one / other == pytest.approx(4, rel=0.02)


def test_the_documented_formulas_of_the_norms_derivatives_equal_a_dense_jacobian():
    x, w, g, h = normal(1, 2, 3, 2, 2), normal(2, 3), normal(3, 2, 3, 2, 2), normal(4, 2, 3, 2, 2)
    p, q = normal(5, 3), normal(6, 3)

    def pulled_back(g, x, w):
        """The cotangents of x, w and b, of the definition."""
        leaves = [x.clone(), w.clone(), torch.zeros(3, dtype=torch.float64, requires_grad=True)]
        return grad(norm_by_definition(*leaves), leaves, g, create_graph=True)

    jacobians = torch.autograd.functional.jacobian(pulled_back, (g, x, w))
    dense = [
        sum(torch.tensordot(u, of, dims=u.ndim) for u, of in zip((h, p, q), by_one, strict=True))
        for by_one in zip(*jacobians, strict=True)
    ]

    def mean(images):
        return images.mean((1, 2, 3), keepdim=True)

    r = (mean((x - mean(x)) ** 2) + 1e-5) ** -0.5
    standard = (x - mean(x)) * r
    w_g, p_g = w[:, None, None] * g, p[:, None, None] * g

    def back(g):
        return r * (g - mean(g) - standard * mean(g * standard))

    a = mean((w_g - mean(w_g)) * (h - mean(h)))
    b, c = mean(w_g * standard), mean(h * standard)
    printed = [
        w[:, None, None] * back(h) + p[:, None, None] * standard + q[:, None, None],
        back(p_g) - r**2 * ((a - 3 * b * c) * standard + c * (w_g - mean(w_g)) + b * (h - mean(h))),
        (g * back(h)).sum((0, 2, 3)),
    ]

    leaves = [one.clone().requires_grad_() for one in (g, x, w)]
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    normalised = call(ImageNorm(3).double())(*leaves[1:], bias)
    found = grad(grad(normalised, [*leaves[1:], bias], leaves[0], create_graph=True), leaves, (h, p, q))
    for one, two, three in zip(dense, printed, found, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(three, one, rtol=1e-11, atol=1e-12)


def test_an_image_of_one_colour_has_the_derivatives_that_torch_gives_it():
    ours, torchs, images = made(OURS_AND_TORCHS["norm-3"])
    images[1] = 0.3
    inputs = images, ours.weight, ours.bias
    assert_same(derivatives(call(ours), *inputs), derivatives(call(torchs), *inputs), 1e-10)  # r is 1/sqrt(eps)


LAYOUTS = {
    "channels-last": lambda images: images.to(memory_format=torch.channels_last),
    "transposed": lambda images: images.mT.contiguous().mT,
    "every-other-column": lambda images: images.repeat_interleave(2, -1)[..., ::2],
    "one-image-for-all": lambda images: images[:1].expand_as(images),
}


@each_kind
@either_layout
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_how_images_lie_in_memory_changes_nothing(pair, layout):
    ours, torchs, images = made(pair)
    inputs = images, ours.weight, ours.bias
    expected = derivatives(
        lambda images, *of: call(torchs)(layout(images).contiguous(), *of), *inputs, layout=lambda g: layout(g).clone()
    )
    actual = derivatives(lambda images, *of: call(ours)(layout(images), *of), *inputs, layout=layout)
    assert_same(actual, expected)


@each_kind
@pytest.mark.parametrize("wanted", [[0], [1], [2], [0, 1], [1, 2], [0, 2]], ids=str)
def test_what_is_frozen_leaves_the_other_derivatives_as_they_are(pair, wanted):
    ours, torchs, images = made(pair)
    inputs = images, ours.weight, ours.bias
    assert_same(derivatives(call(ours), *inputs, wanted=wanted), derivatives(call(torchs), *inputs, wanted=wanted))


def third(layer, images):
    x = images.clone().requires_grad_()
    (first,) = grad(layer(x).pow(3).sum(), x, create_graph=True)
    (second,) = grad(first.square().sum(), x, create_graph=True)
    return grad(second.square().sum(), x)[0]


@each_kind
@either_layout
def test_third_derivatives_equal_those_of_torchs_layer(pair):
    ours, torchs, images = made(pair)
    assert_same({"third": third(ours, images)}, {"third": third(torchs, images)})


@pytest.mark.parametrize(
    "pair", [pair for name, pair in FEW.items() if "norm" not in name], ids=[name for name in FEW if "norm" not in name]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_that_do_not_fit_are_refused(pair, dtype):
    layer = pair()[0].to(dtype)
    with pytest.raises(RuntimeError, match=r"channels|cannot be multiplied"):
        layer(torch.zeros(3, 5, 6, 9, dtype=dtype))
    for shape in ((6, 9), (0, 6), (2, 6, 9)):
        with pytest.raises(ValueError, match=re.escape(f"(n, channels, height, width), got shape {shape}")):
            layer(torch.zeros(shape, dtype=dtype))


@pytest.mark.parametrize("before", [1, 2])
def test_images_smaller_than_the_kernel_are_refused(before):
    with pytest.raises(RuntimeError, match="size"):
        Convolution(before, 2, 4)(torch.zeros(1, before, 3, 9))


@each_kind
def test_parameters_have_torchs_names_shapes_and_start(pair):
    torch.manual_seed(0)
    ours = pair()[0]
    torch.manual_seed(0)
    _, torchs = pair()
    torchs_first = pair()[1]
    torchs_first.load_state_dict(ours.state_dict())
    ours.load_state_dict(torchs.state_dict())
    assert isinstance(ours, type(torchs))
    images = normal(0, 2, channels_of(ours), 5, 6).float()
    torch.testing.assert_close(ours(images), torchs(images))


def test_in_float32_images_leave_with_their_channels_last():
    """So that no layer after another lays them out anew, and torch's own convolutions find them so."""
    images = normal(0, 3, 1, 8, 8).float()
    for layer in (Convolution(1, 4, 3), Sigmoid(), ImageNorm(4), Convolution(4, 4, 1), Deconvolution(4, 2, 2, 2)):
        images = layer(images)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert not images.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_strides_of_single_rows_columns_and_images_are_left_open(dtype):
    """As of one image of height, width, channels; and of images of a single column."""
    one = normal(0, 4, 5, 3).to(dtype).permute(2, 0, 1)[None]
    columns = normal(1, 2, 4, 3).to(dtype).permute(0, 2, 1).unsqueeze(3)
    norm = ImageNorm(3).to(dtype)
    for images in (one, columns):
        torch.testing.assert_close(norm(images), norm(images.contiguous()))
        torch.testing.assert_close(Convolution(3, 2, 1).to(dtype)(images).shape[2:], images.shape[2:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("of", [(1, 2, 2), (3, 1, 1), (3, 2, 2, 2)], ids=str)
def test_no_images_give_no_images(dtype, of):
    layer = Convolution(*of).to(dtype)
    images = torch.zeros(0, of[0], 5, 6, dtype=dtype, requires_grad=True)
    result = layer(images)
    assert result.shape == nn.Conv2d(*of).to(dtype)(images).shape
    found = grad(result.sum(), [images, layer.weight])
    assert found[0].shape == images.shape
    assert not found[1].any()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_images_far_from_zero_lose_no_more_digits_than_rounding_takes(layout):
    """Sigmoids lie about 1/2, close to each other. The mean takes a factor of mean / deviation; no more is lost.

    By instruction set the error is 25 to 104 units in the last place; of mean square less squared mean it is 4600.
    """
    images = 0.5 + 0.01 * normal(0, 3, 4, 25, 25)
    exact = ImageNorm(4).double()(images)
    single = ImageNorm(4)(images.float().to(memory_format=layout))
    assert (single - exact).abs().max() < 300 * torch.finfo(torch.float32).eps


# The sigmoid


def test_the_sigmoids_derivatives_equal_those_of_torchs():
    x = 3 * normal(0, 4, 5)
    assert_same(derivatives(Sigmoid(), x), derivatives(torch.sigmoid, x))
    assert_same({"third": third(Sigmoid(), x)}, {"third": third(torch.sigmoid, x)})
    assert gradgradcheck(Sigmoid(), [normal(1, 3).requires_grad_()])


def test_the_sigmoid_of_stacked_models_and_of_several_cotangents():
    x = normal(0, 3, 4)
    assert_same(derivatives(vmap(Sigmoid(), in_dims=1), x), derivatives(lambda x: torch.sigmoid(x.T), x))
    leaf = x.clone().requires_grad_()
    (slope,) = grad(Sigmoid()(leaf).square().sum(), leaf, create_graph=True)
    cotangents = normal(1, 5, 3, 4)
    together = vmap(lambda c: grad(slope, leaf, c, retain_graph=True)[0])(cotangents)
    apart = [grad(slope, leaf, c, retain_graph=True)[0] for c in cotangents]
    assert torch.allclose(together, torch.stack(apart), rtol=1e-14, atol=0)


# Several models, several cotangents

STACKED = {  # how images, weight and bias are stacked
    "models": (None, 0, 0),
    "models-with-images-of-their-own": (0, 0, 0),
    "images-stacked-second": (1, 0, 0),
    "images-alone": (0, None, None),
    "kernels-alone": (None, 0, None),
    "biases-alone": (0, None, 0),
}
each_stacking = pytest.mark.parametrize("dims", STACKED.values(), ids=STACKED)


def stacked_inputs(layer, images, dims):
    own = torch.stack([images, images.flip(0) + 1, 2 * images])
    parameters, several = parameters_of(layer), parameters_of(layer, 3)
    pictures = images if dims[0] is None else own.movedim(0, dims[0]).contiguous()
    chosen = [one if dim is None else many for one, many, dim in zip(parameters, several, dims[1:], strict=True)]
    return pictures, *chosen


def one_by_one(function, dims):
    """What ``vmap(function, in_dims=dims)`` means."""

    def stacked(*inputs):
        count = next(one.shape[dim] for one, dim in zip(inputs, dims, strict=True) if dim is not None)
        models = [
            [one if dim is None else one.select(dim, k) for one, dim in zip(inputs, dims, strict=True)]
            for k in range(count)
        ]
        return torch.stack([function(*model) for model in models])

    return stacked


@each_kind
@either_layout
@each_stacking
def test_stacked_models_equal_one_by_one(pair, dims):
    ours, torchs, images = made(pair)
    inputs = stacked_inputs(ours, images, dims)
    expected = derivatives(one_by_one(call(torchs), dims), *inputs)
    assert_same(derivatives(vmap(call(ours), in_dims=dims), *inputs), expected)


@each_kind
@either_layout
@pytest.mark.parametrize("outer", [(0, 0, 0), (0, None, None), (None, 0, 0)], ids=["all", "images", "models"])
def test_stacks_of_stacks_equal_one_by_one(pair, outer):
    """As the models of several runs: each run with images of its own, which its models share."""
    ours, torchs, images = made(pair)
    inner = (None, 0, 0)
    inputs = [stacked_inputs(ours, images, (outer[0], None, None))[0]]
    sizes = (2, 3) if outer[0] is None else (3, 3)
    inputs += parameters_of(ours, *(sizes if outer[1] == 0 else sizes[1:]))
    expected = derivatives(one_by_one(one_by_one(call(torchs), inner), outer), *inputs)
    assert_same(derivatives(vmap(vmap(call(ours), in_dims=inner), in_dims=outer), *inputs), expected)


def graph(function, inputs, order):
    """``(outputs, inputs)`` of a graph: of the function itself, or of its first derivatives."""
    leaves = [one.clone().requires_grad_() for one in inputs]
    value = function(*leaves)
    if order == 1:
        return [value], leaves
    g = normal(5, *value.shape).requires_grad_()
    return grad(value, leaves, g, create_graph=True), [*leaves, g]


@each_kind
@either_layout
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("dims", [None, (None, 0, 0)], ids=["one-model", "models"])
def test_several_cotangents_share_a_graph(pair, order, dims):
    """``vmap`` over ``torch.autograd.grad``, as in a sweep from several stops; and of a graph of stacked models."""
    ours, torchs, images = made(pair)
    inputs = (images, *parameters_of(ours)) if dims is None else stacked_inputs(ours, images, dims)
    function, reference = call(ours), call(torchs)
    if dims is not None:
        function, reference = vmap(function, in_dims=dims), one_by_one(reference, dims)
    outputs, leaves = graph(function, inputs, order)
    cotangents = [normal(8 + k, 4, *one.shape) for k, one in enumerate(outputs)]

    def product(*of):
        return grad(outputs, leaves, of, retain_graph=True, materialize_grads=True)

    theirs, by = graph(reference, inputs, order)
    apart = [grad(theirs, by, of, retain_graph=True, materialize_grads=True) for of in zip(*cotangents, strict=True)]
    expected = {str(k): torch.stack(parts) for k, parts in enumerate(zip(*apart, strict=True))}
    for chunk in (None, 1):
        together = vmap(product, chunk_size=chunk)(*cotangents)
        assert_same({str(k): one for k, one in enumerate(together)}, expected)


@either_layout
@pytest.mark.parametrize("stops", [1, 3])
def test_several_cotangents_go_through_a_block(stops):
    """From one layer to the next images lie as the first one left them."""

    def network(convolution, sigmoid, norm):
        torch.manual_seed(0)
        return nn.Sequential(convolution(1, 3, 2), sigmoid(), norm, convolution(3, 2, 3, 2)).double()

    ours = network(Convolution, Sigmoid, ImageNorm(3))
    torchs = network(nn.Conv2d, nn.Sigmoid, nn.GroupNorm(1, 3))
    images, cotangents = normal(0, 4, 1, 6, 7), normal(1, stops, 4, 1, 6, 7)
    found = []
    for layer in (ours, torchs):
        leaf = images.clone().requires_grad_()
        wanted = [leaf, *layer.parameters()]
        (slope,) = grad(layer(leaf).square().sum(), leaf, create_graph=True)

        def product(c, slope=slope, wanted=wanted):
            return grad(slope, wanted, c, retain_graph=True, materialize_grads=True)

        parts = vmap(product)(cotangents)
        found.append({str(k): one for k, one in enumerate(parts)})
    assert_same(*found)


@each_kind
def test_gradients_may_be_taken_within_vmap(pair):
    ours, torchs, images = made(pair)
    _, weights, biases = stacked_inputs(ours, images, (None, 0, 0))

    def cost(layer):
        return lambda *of: call(layer)(images, *of).sigmoid().square().sum()

    together = vmap(torch.func.grad(cost(ours), argnums=(0, 1)))(weights, biases)
    apart = [torch.func.grad(cost(torchs), argnums=(0, 1))(*of) for of in zip(weights, biases, strict=True)]
    for one, *separate in zip(together, *apart, strict=True):
        assert_same({"all": one}, {"all": torch.stack(separate)})


@pytest.fixture
def in_groups(monkeypatch):
    """Stacked models as on a GPU."""

    monkeypatch.setattr(convolution, "_on_a_cpu", lambda tensors: False)


@each_kind
@each_stacking
def test_stacked_models_as_one_convolution_in_groups_equal_one_by_one(in_groups, pair, dims):
    test_stacked_models_equal_one_by_one(pair, dims)


@each_kind
@pytest.mark.parametrize("order", [1, 2])
def test_several_cotangents_of_stacked_models_in_groups_equal_one_by_one(in_groups, pair, order):
    test_several_cotangents_share_a_graph(pair, order, (None, 0, 0))


@each_kind
def test_stacks_of_stacks_in_groups_equal_one_by_one(in_groups, pair):
    test_stacks_of_stacks_equal_one_by_one(pair, (0, 0, 0))


# Grey images, whose convolution is one operation to torch

GREY = {"overlapping": (4, 2, 3), "side by side": (2, 2, 3), "by one": (3, 1, 4), "with gaps": (2, 3, 2)}
each_grey = pytest.mark.parametrize(("kernel", "stride", "size"), GREY.values(), ids=GREY)


def grey(kernel, stride, size, dtype=torch.float32):
    """A cotangent, a kernel and the size of its images, one pixel more than the windows cover."""
    of_images = (size - 1) * stride + kernel + 1
    return normal(5, 2, 3, size, size).to(dtype), normal(6, 3, 1, kernel, kernel).to(dtype), [of_images, of_images + 1]


@each_grey
def test_grey_images_equal_torchs_own(kernel, stride, size):
    g, w, images = grey(kernel, stride, size, torch.float64)
    x = torch.zeros(2, 1, *images, dtype=torch.float64, requires_grad=True)
    covered = x[..., :-1, :-2]
    (expected,) = grad(nn.functional.conv2d(covered, w, stride=stride), x, g)
    torch.testing.assert_close(convolution._grey(g, w, images, [stride, stride]), expected, rtol=EXACT, atol=EXACT)


@each_grey
def test_grey_images_are_a_pure_operation_whose_layout_torch_knows(kernel, stride, size):
    """Also to steps that are recorded with tensors without values; and it writes into no argument."""
    g, w, images = grey(kernel, stride, size)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(convolution._grey, (g, w, images, [stride, stride]), test_utils=tests)
    found = convolution._grey(g, w, images, [stride, stride])
    assert layouts.channels_last(found) is found


def test_a_recorded_step_of_grey_images_writes_nowhere():
    convolution = Convolution(1, 3, 4, 2)

    def gradient(x):
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            return grad(convolution(x).square().sum(), x)[0]

    x = normal(0, 2, 1, 8, 8).float()
    module = traced(gradient, x)
    operations = [node.target for node in module.graph.nodes if node.op == "call_function"]
    assert torch.ops.gan_influence.of_grey_images.default in operations
    assert not any(one._schema.is_mutable for one in operations if hasattr(one, "_schema"))
    assert torch.equal(module(x), gradient(x))
