"""The classifier that the Inception score and the Fréchet distance rest on."""

import inspect
import math

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from scipy.special import expit
from support.games import normal, same_bits
from torch.nn.functional import cross_entropy

from gan_influence.history import DamagedFileError, Folder
from gan_influence.models.classifier import (
    Classifier,
    _loss,
    classifier,
    fit_classifier,
    load_classifier,
    save_classifier,
)

KERNELS = ("first.weight", "second.weight", "dense.weight", "output.weight")


def with_biases(model):
    """Biases start at zero, where a slip with them would not be seen."""
    for k, parameter in enumerate(model.parameters()):
        if parameter.ndim == 1:
            parameter.data = 0.3 * normal(k, *parameter.shape).to(parameter.dtype)
    return model


def values(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def arrays(model):
    return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}


def labelled(n, size=4, classes=10, dtype=torch.float32, seed=1):
    labels = torch.arange(n) % classes
    return normal(seed, n, 1, size, size).to(dtype).tanh(), labels


def small(seed=0, dtype=torch.float32):
    return classifier(4, channels=2, hidden=5, dtype=dtype, seed=seed)


# ------------------------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize(("size", "halved", "flat"), [(28, 14, 392), (8, 4, 32)])
def test_the_stages_have_the_sizes_of_the_table(size, halved, flat):
    model, shapes = classifier(size, seed=0), {}
    for name, layer in model.named_children():
        layer.register_forward_hook(lambda _, inputs, output, name=name: shapes.update({name: (inputs[0], output)}))
    model(torch.zeros(3, 1, size, size))
    assert {name: tuple(tuple(t.shape) for t in pair) for name, pair in shapes.items()} == {
        "first": ((3, 1, size, size), (3, 8, size, size)),
        "second": ((3, 8, halved, halved), (3, 8, halved, halved)),
        "dense": ((3, flat), (3, 128)),
        "output": ((3, 128), (3, 10)),
    }


def test_other_sizes_are_honoured_and_kept():
    model = classifier(12, colours=3, classes=4, channels=5, hidden=np.int64(6), dtype=torch.float64, seed=0)
    images = normal(1, 2, 3, 12, 12)
    assert model(images).shape == (2, 4)
    assert model.features(images).shape == (2, 6)
    assert model.sizes == {"image_size": 12, "colours": 3, "classes": 4, "channels": 5, "hidden": 6}
    assert [tuple(p.shape) for p in model.parameters()] == [
        *[(5, 3, 5, 5), (5,), (5, 5, 5, 5), (5,)],
        *[(6, 45), (6,), (4, 6), (4,)],
    ]


def by_scipy(model, image):
    """Features and logits of one image (colours, size, size), the sigmoid before the pooling as in Table III."""
    p, maps = arrays(model), image.numpy()
    for name in ("first", "second"):
        kernels, biases = p[f"{name}.weight"], p[f"{name}.bias"]
        maps = np.stack(
            [
                expit(sum(correlate2d(m, k, mode="same") for m, k in zip(maps, kernel, strict=True)) + bias)
                for kernel, bias in zip(kernels, biases, strict=True)
            ]
        )
        channels, size, _ = maps.shape
        maps = maps.reshape(channels, size // 2, 2, size // 2, 2).max((2, 4))
    features = expit(p["dense.weight"] @ maps.reshape(-1) + p["dense.bias"])
    return features, p["output.weight"] @ features + p["output.bias"]


@pytest.mark.parametrize(("size", "colours"), [(28, 1), (8, 3)])
def test_features_and_logits_are_those_of_scipy(size, colours):
    model = with_biases(classifier(size, colours=colours, dtype=torch.float64, seed=0))
    images = normal(1, 3, colours, size, size)
    features, logits = (np.stack(part) for part in zip(*(by_scipy(model, image) for image in images), strict=True))
    np.testing.assert_allclose(model.features(images).detach(), features, rtol=1e-12)
    np.testing.assert_allclose(model(images).detach(), logits, rtol=1e-11)


def by_loops(model, image):
    p = {name: array.tolist() for name, array in arrays(model).items()}
    maps = image.tolist()
    for name in ("first", "second"):
        size, pooled = len(maps[0]), []
        for kernel, bias in zip(p[f"{name}.weight"], p[f"{name}.bias"], strict=True):
            convolved = [[bias] * size for _ in range(size)]
            for i in range(size):
                for j in range(size):
                    for c, row in enumerate(maps):
                        for a in range(5):
                            for b in range(5):
                                y, x = i + a - 2, j + b - 2
                                if 0 <= y < size and 0 <= x < size:  # "same": zeros around the image
                                    convolved[i][j] += kernel[c][a][b] * row[y][x]
            at = [[1 / (1 + math.exp(-v)) for v in row] for row in convolved]
            pairs = range(0, size, 2)
            pooled.append([[max(at[i][j], at[i][j + 1], at[i + 1][j], at[i + 1][j + 1]) for j in pairs] for i in pairs])
        maps = pooled
    flat = [v for one in maps for row in one for v in row]
    features = []
    for weights, bias in zip(p["dense.weight"], p["dense.bias"], strict=True):
        features.append(1 / (1 + math.exp(-bias - sum(w * v for w, v in zip(weights, flat, strict=True)))))
    return [
        bias + sum(w * v for w, v in zip(weights, features, strict=True))
        for weights, bias in zip(p["output.weight"], p["output.bias"], strict=True)
    ]


def test_logits_are_those_of_explicit_loops():
    model = with_biases(small(dtype=torch.float64))
    images = normal(1, 2, 1, 4, 4)
    np.testing.assert_allclose(model(images).detach(), [by_loops(model, image) for image in images], rtol=1e-12)


def test_same_padding_puts_zeros_around_the_image():
    model, images = small(), torch.rand(1, 1, 4, 4)
    model.first.weight.data.zero_()[0, 0, 4, 3] = 1  # two rows down, one column to the right
    shifted = torch.zeros(4, 4)
    shifted[:2, :3] = images[0, 0, 2:, 1:]
    assert torch.equal(model.first(images)[0, 0], shifted)


def test_logits_are_not_squashed():
    model = small()
    model.output.bias.data.fill_(7.0)
    assert (model(labelled(3)[0]) > 3).all()


def test_a_sigmoid_on_the_last_layer_would_keep_the_score_far_below_the_published_changes():
    # IS <= exp(max KL(p || uniform)), which is convex in p: the largest lies at a corner, m of ten outputs 1, others 0.
    corners = [torch.tensor([1.0] * m + [0.0] * (10 - m), dtype=torch.float64).softmax(0) for m in range(11)]
    assert 1.13 < max((p * (10 * p).log()).sum().exp() for p in corners) < 1.14


# ---------------------------------------------------------------------------------------------------------- gradients


def scalar(model, images):
    return model(images).log_softmax(1).square().sum() + (model.features(images) ** 3).sum()


def test_the_gradient_in_the_images_is_the_limit_of_finite_differences():
    model = with_biases(classifier(8, dtype=torch.float64, seed=0)).requires_grad_(False)
    for parameter in model.parameters():
        parameter.data *= 2  # more curvature, for errors far above rounding
    image = normal(1, 1, 1, 8, 8).requires_grad_()
    (gradient,) = torch.autograd.grad(scalar(model, image), image)
    for seed in (2, 3):
        direction, errors = normal(seed, *image.shape), []
        slope = (gradient * direction).sum().item()
        for h in (2e-3, 1e-3, 5e-4):  # too short to move a maximum
            ahead, behind = (scalar(model, image.detach() + e * direction).item() for e in (h, -h))
            errors.append((ahead - behind) / (2 * h) - slope)
        assert abs(errors[-1]) < 1e-7 * abs(slope)
        assert [errors[0] / errors[1], errors[1] / errors[2]] == pytest.approx([4, 4], rel=0.01)


def test_first_and_second_derivatives_in_every_pixel_pass_gradcheck():
    model = with_biases(small(dtype=torch.float64)).requires_grad_(False)
    images = normal(1, 2, 1, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(model, images)
    assert torch.autograd.gradgradcheck(model, images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_of_equal_values_the_first_gets_the_gradient(dtype, layout):
    model = classifier(8, colours=2, dtype=dtype, seed=0)
    model.first.weight.data.zero_()[:, :, 2, 2] = 1  # each pixel by itself
    images = torch.full((3, 2, 8, 8), -1.0, dtype=dtype).to(memory_format=layout).requires_grad_()
    scalar(model, images).backward()
    hit = images.grad != 0
    assert hit[..., ::2, ::2].any()
    assert not hit[..., 1::2, :].any()
    assert not hit[..., :, 1::2].any()


def test_float32_agrees_with_float64_up_to_rounding():
    exact = with_biases(classifier(28, dtype=torch.float64, seed=0))
    rounded = classifier(28)
    rounded.load_state_dict(exact.state_dict())
    images = normal(1, 4, 1, 28, 28)
    gradients = []
    for model, dtype in ((exact, torch.float64), (rounded, torch.float32)):
        leaf = images.to(dtype).requires_grad_()
        gradients.append(torch.autograd.grad(scalar(model, leaf), leaf)[0].double())
    torch.testing.assert_close(rounded(images.float()).double(), exact(images), rtol=1e-5, atol=1e-5)
    assert (gradients[1] - gradients[0]).norm() < 1e-5 * gradients[0].norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_of_several_generators_are_classified_at_once(dtype):
    model = with_biases(classifier(8, dtype=dtype, seed=0))
    images = normal(1, 3, 5, 1, 8, 8).to(dtype)
    for function in (model, model.features):
        expected = torch.stack([function(of_one) for of_one in images])
        torch.testing.assert_close(torch.func.vmap(function)(images), expected)


# ------------------------------------------------------------------------------------------------------ initial values


def test_kernels_are_glorot_uniform_and_biases_zero():
    model = classifier(8, colours=20, classes=40, channels=30, hidden=500, seed=0)
    fans = {"first": (20 + 30) * 25, "second": 60 * 25, "dense": 30 * 4 + 500, "output": 500 + 40}
    for name, parameter in model.named_parameters():
        layer, kind = name.split(".")
        if kind == "bias":
            assert (parameter == 0).all()
            continue
        bound = math.sqrt(6 / fans[layer])
        assert parameter.abs().max() <= bound
        assert parameter.abs().max() > 0.99 * bound
        # A uniform variable's square has mean b^2/3 and standard deviation b^2 sqrt(4/45).
        spread = 5 * bound**2 * math.sqrt(4 / 45 / parameter.numel())
        assert parameter.square().mean().item() == pytest.approx(bound**2 / 3, abs=spread)


def test_a_seed_fixes_the_kernels_and_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert same_bits(values(classifier(8, seed=5)), values(classifier(8, seed=5)))
    assert not same_bits(values(classifier(8, seed=5)), values(classifier(8, seed=6)))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_default_draws_come_from_torchs_generator():
    torch.manual_seed(3)
    first = values(classifier(8))
    assert not same_bits(values(classifier(8)), first)
    torch.manual_seed(3)
    assert same_bits(values(classifier(8)), first)


def test_kernels_keep_the_layout_in_which_fitting_is_fast():
    model, data = classifier(8, seed=0), labelled(20, size=8)
    fitted = fit_classifier(model, data, data, epochs=1)
    for one in (model, fitted, fitted.double()):
        assert one.first.weight.stride() == (25, 1, 5, 1)
        assert one.second.weight.stride() == (200, 1, 40, 8)


def test_it_is_not_fitted_at_first():
    assert classifier(8).accuracy is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 0}, r"image_size must be a whole number >= 1, got 0"),
        ({"image_size": 30}, r"image_size must be a multiple of 4: it is halved twice. Got 30"),
        ({"image_size": 8.0}, r"image_size must be a whole number >= 1, got 8.0"),
        ({"colours": 0}, r"colours must be a whole number >= 1, got 0"),
        ({"classes": True}, r"classes must be a whole number >= 1, got True"),
        ({"channels": -1}, r"channels must be a whole number >= 1, got -1"),
        ({"hidden": None}, r"hidden must be a whole number >= 1, got None"),
    ],
)
def test_bad_sizes_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        classifier(**settings)


@pytest.mark.parametrize("shape", [(8, 8), (2, 8, 8), (2, 3, 8, 8), (2, 1, 28, 28), (2, 1, 8, 4)])
def test_images_of_another_shape_are_refused(shape):
    model = classifier(8)
    for function in (model, model.features):
        with pytest.raises(ValueError, match=r"images must be \(n, 1, 8, 8\) for this classifier, got \(.*8.*\)"):
            function(torch.zeros(shape))


# ------------------------------------------------------------------------------------------------------------- fitting


def test_the_defaults_are_those_of_the_authors_code():
    defaults = {name: p.default for name, p in inspect.signature(fit_classifier).parameters.items()}
    assert [defaults[name] for name in ("epochs", "batch_size", "lr", "l2")] == [50, 128, 1e-2, 1e-3]


def by_hand(model, images, labels, steps, lr, l2):
    """Full batches by Adam's formulas (Kingma and Ba 2015, algorithm 1), with autograd's gradients of the objective."""
    parameters = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    first, second = ({name: torch.zeros_like(p) for name, p in parameters.items()} for _ in range(2))
    for t in range(1, steps + 1):
        logits = torch.func.functional_call(model, parameters, (images,))
        likelihood = logits.exp() / logits.exp().sum(1, keepdim=True)
        cost = -likelihood[range(len(labels)), labels].log().mean()
        cost = cost + l2 / 2 * (parameters["output.weight"] ** 2).sum()
        gradients = torch.autograd.grad(cost, list(parameters.values()))
        for (name, parameter), g in zip(parameters.items(), gradients, strict=True):
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g * g
            root = (second[name] / (1 - 0.999**t)).sqrt() + 1e-8
            parameter.data -= lr * first[name] / (1 - 0.9**t) / root
    return parameters


def test_fitting_is_adam_on_the_stated_objective():
    model, (images, labels) = with_biases(small(dtype=torch.float64)), labelled(30, dtype=torch.float64)
    fitted = fit_classifier(model, (images, labels), (images, labels), epochs=6, lr=0.03, l2=0.7)
    expected = by_hand(model, images, labels, 6, 0.03, 0.7)
    for name, parameter in fitted.named_parameters():
        torch.testing.assert_close(parameter, expected[name].detach(), rtol=1e-8, atol=1e-10)


def test_l2_enters_the_gradient_of_the_output_kernel_only():
    model, (images, labels) = with_biases(small(dtype=torch.float64)), labelled(30, dtype=torch.float64)
    names, parameters = zip(*model.named_parameters(), strict=True)
    with_l2 = torch.autograd.grad(_loss(model, images, labels, 0.25), parameters)
    without = torch.autograd.grad(cross_entropy(model(images), labels), parameters)
    for name, parameter, one, other in zip(names, parameters, with_l2, without, strict=True):
        share = 0.25 * parameter if name == "output.weight" else torch.zeros_like(parameter)
        torch.testing.assert_close(one - other, share, rtol=1e-12, atol=1e-15)


def test_an_epoch_takes_every_row_once_in_an_order_of_its_own():
    images, labels = labelled(10)
    images[:, 0, 0, 0] = torch.arange(10.0)  # names the row
    model, seen = small(), []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, 0, 0, 0].tolist()))
    fit_classifier(model, (images, labels), (images[:1], labels[:1]), epochs=3, batch_size=4)
    assert [len(batch) for batch in seen] == [4, 4, 2] * 3 + [1]
    epochs = [[row for batch in seen[k : k + 3] for row in batch] for k in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs} | {tuple(range(10))}) == 4


def test_a_seed_fixes_the_fit_and_nothing_else_is_touched():
    model, data = small(), labelled(20)
    before, images = values(model).clone(), data[0].clone()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, again, other = (
        fit_classifier(model, data, data, epochs=3, batch_size=8, seed=seed) for seed in (4, np.int64(4), 5)
    )
    assert same_bits(values(first), values(again))
    assert not same_bits(values(first), values(other))
    assert torch.equal(torch.get_rng_state(), state)
    assert same_bits(values(model), before)
    assert same_bits(data[0], images)
    assert model.accuracy is None
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_what_is_fitted_is_frozen_and_can_be_fitted_further():
    data = labelled(20)
    fitted = fit_classifier(small(), data, data, epochs=1)
    assert not any(p.requires_grad for p in fitted.parameters())
    with torch.no_grad():
        further = fit_classifier(fitted, data, data, epochs=1)
    assert not same_bits(values(further), values(fitted))
    images = data[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(scalar(fitted, images), images)
    assert gradient.abs().max() > 0


def test_the_accuracy_is_the_share_of_held_out_images_labelled_rightly():
    held_out = labelled(2345, seed=2)
    model = with_biases(small())
    fitted = fit_classifier(model, labelled(20), held_out, epochs=1)
    with torch.no_grad():
        right = [int(fitted(image[None]).argmax()) == label for image, label in zip(*held_out, strict=True)]
    assert isinstance(fitted.accuracy, float)
    assert 0 < fitted.accuracy < 1
    assert fitted.accuracy == sum(right) / 2345


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_labels_may_be_of_any_whole_type(dtype):
    images, labels = labelled(20)
    fits = [fit_classifier(small(), (images, y), (images, y), epochs=2) for y in (labels, labels.to(dtype))]
    assert same_bits(*map(values, fits))


def test_it_learns_the_digits():
    datasets = pytest.importorskip("sklearn.datasets")
    bundled = datasets.load_digits()
    order = np.random.default_rng(0).permutation(len(bundled.target))
    images = torch.from_numpy(bundled.images[order]).float().unsqueeze(1) / 8 - 1
    labels = torch.from_numpy(bundled.target[order])
    training, held_out = (images[:900], labels[:900]), (images[900:], labels[900:])
    fitted = fit_classifier(classifier(8, seed=0), training, held_out, epochs=15, batch_size=32)
    assert fitted.accuracy > 0.93


def test_progress_is_shown_on_request(capsys):
    data = labelled(3)
    fit_classifier(small(), data, data, epochs=2)
    assert capsys.readouterr().err == ""
    fit_classifier(small(), data, data, epochs=2, progress=True)
    assert "classifier: 100%" in capsys.readouterr().err


def test_a_fit_that_diverges_is_stopped():
    data = labelled(20)
    with pytest.raises(RuntimeError, match=r"diverged in epoch [01]: lower the learning rate, lr=3e\+37"):
        fit_classifier(small(), data, data, epochs=5, lr=3e37)


def changed(position, value):
    """Labelled images with one label or pixel replaced."""

    def change(images, labels):
        target = (images, labels)[position].clone()
        target.view(-1)[7] = value
        return (target, labels) if position == 0 else (images, target)

    return change


BAD_DATA = {
    "label-too-large": (changed(1, 10), ValueError, r"labels\[7\] is 10, but the classes are 0 to 9"),
    "label-negative": (changed(1, -1), ValueError, r"labels\[7\] is -1, but the classes are 0 to 9"),
    "nan": (changed(0, math.nan), ValueError, r"images contain NaN or infinity"),
    "infinity": (changed(0, math.inf), ValueError, r"images contain NaN or infinity"),
    "no-rows": (
        lambda x, y: (x[:0], y[:0]),
        ValueError,
        r"images must hold at least one row, got .*\(0, 1, 4, 4\)",
    ),
    "one-label-short": (
        lambda x, y: (x, y[1:]),
        ValueError,
        r"labels must be \(20,\), one for each .*, got \(19,\)",
    ),
    "one-hot": (lambda x, y: (x, torch.eye(10)[y].long()), ValueError, r"labels must be \(20,\), .*got \(20, 10\)"),
    "no-channel": (lambda x, y: (x[:, 0], y), ValueError, r"images must be \(n, 1, 4, 4\) .*, got \(20, 4, 4\)"),
    "larger": (lambda x, y: (torch.zeros(20, 1, 8, 8), y), ValueError, r"images must be \(n, 1, 4, 4\) "),
    "double": (
        lambda x, y: (x.double(), y),
        TypeError,
        r"images are torch.float64, .* classifier is torch.float32",
    ),
    "bytes": (lambda x, y: (x.byte(), y), TypeError, r"images must be a floating-point tensor, got torch.uint8"),
    "arrays": (lambda x, y: (x.numpy(), y), TypeError, r"images must be a floating-point tensor, got ndarray"),
    "float-labels": (lambda x, y: (x, y.float()), TypeError, r"labels must be a tensor of whole .*, got torch.float32"),
    "bool-labels": (lambda x, y: (x, y > 3), TypeError, r"labels must be a tensor of whole numbers, got torch.bool"),
    "list-of-labels": (lambda x, y: (x, y.tolist()), TypeError, r"labels must be a tensor of whole numbers, got list"),
    "images-alone": (lambda x, y: x, TypeError, r"must be a pair \(images, labels\), got Tensor"),
    "triple": (lambda x, y: (x, y, y), TypeError, r"must be a pair \(images, labels\), got tuple"),
}


@pytest.mark.parametrize("which", ["training", "held_out"])
@pytest.mark.parametrize(("change", "error", "message"), BAD_DATA.values(), ids=BAD_DATA)
def test_bad_data_are_named(change, error, message, which):
    pairs = {"training": labelled(20), "held_out": labelled(20)} | {which: change(*labelled(20))}
    with pytest.raises(error, match=f"^{which} {message}"):
        fit_classifier(small(), **pairs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, r"epochs must be a whole number >= 1, got 0"),
        ({"epochs": 1.0}, r"epochs must be a whole number >= 1, got 1.0"),
        ({"batch_size": 0}, r"batch_size must be a whole number >= 1, got 0"),
        ({"batch_size": True}, r"batch_size must be a whole number >= 1, got True"),
        ({"lr": 0}, r"lr must be a number > 0, got 0"),
        ({"lr": math.nan}, r"lr must be a number > 0, got nan"),
        ({"l2": -1e-3}, r"l2 must be a number >= 0, got -0.001"),
        ({"l2": math.inf}, r"l2 must be a number >= 0, got inf"),
        ({"seed": -1}, r"seed must be a whole number from 0 to 2\^64 - 1, got -1"),
        ({"seed": None}, r"seed must be a whole number from 0 to 2\^64 - 1, got None"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        fit_classifier(small(), labelled(20), labelled(20), **settings)


def test_only_a_classifier_is_fitted_and_saved(tmp_path):
    other = torch.nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"model must be a Classifier, got Linear"):
        fit_classifier(other, labelled(20), labelled(20))
    with pytest.raises(TypeError, match=r"model must be a Classifier, got Linear"):
        save_classifier(tmp_path / "other.pt", other)


@pytest.mark.gpu
def test_fitting_on_a_gpu_agrees_with_the_cpu(cuda):
    data = labelled(50, dtype=torch.float64)
    models = small(dtype=torch.float64), small(dtype=torch.float64).to(cuda)
    on_cpu, on_gpu = (fit_classifier(model, data, data, epochs=3, batch_size=16) for model in models)
    assert on_gpu.output.weight.is_cuda
    torch.testing.assert_close(values(on_gpu).cpu(), values(on_cpu), rtol=1e-6, atol=1e-8)


# --------------------------------------------------------------------------------------------------- saving and loading


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_was_saved_is_loaded_to_the_bit(dtype, tmp_path):
    data = labelled(20, size=8, dtype=dtype)
    fitted = fit_classifier(classifier(8, hidden=np.int64(9), dtype=dtype, seed=0), data, data, epochs=1)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    save_classifier(tmp_path / "new" / "classifier.pt", fitted)
    loaded = load_classifier(str(tmp_path / "new" / "classifier.pt"))
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(loaded, Classifier)
    assert (loaded.accuracy, loaded.sizes) == (fitted.accuracy, fitted.sizes)
    for one, other in zip(loaded.parameters(), fitted.parameters(), strict=True):
        assert same_bits(one, other)
        assert one.stride() == other.stride()  # another layout would round otherwise
    assert same_bits(loaded(data[0]), fitted(data[0]))
    assert not any(p.requires_grad for p in loaded.parameters())


def test_a_classifier_that_was_never_fitted_can_be_saved(tmp_path):
    save_classifier(tmp_path / "classifier.pt", small())
    assert load_classifier(tmp_path / "classifier.pt").accuracy is None


def test_saving_again_replaces_the_file_and_leaves_nothing_else(tmp_path):
    for seed in (0, 1):
        save_classifier(tmp_path / "classifier.pt", small(seed))
    assert same_bits(values(load_classifier(tmp_path / "classifier.pt")), values(small(1)))
    assert [file.name for file in tmp_path.iterdir()] == ["classifier.pt"]


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def holding(content):
    return lambda path: Folder(path.parent).write(path.name, content)


SIZES, STATE = small().sizes, small().state_dict()
DAMAGE = {
    "one-bit": (flipped, "is damaged: its checksum is wrong"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-100]), "is damaged: its checksum is wrong"),
    "empty": (lambda path: path.write_bytes(b""), "is damaged: its checksum is wrong"),
    "missing": (lambda path: path.unlink(), "cannot be read: No such file or directory"),
    "tensor": (holding(torch.zeros(3)), "holds no classifier of this library"),
    "text": (holding("text"), "holds no classifier of this library"),
    "no-accuracy": (holding({"sizes": SIZES, "state": STATE}), "holds no classifier of this library: 'accuracy'"),
    "sizes": (
        holding({"sizes": {**SIZES, "hidden": 6}, "state": STATE, "accuracy": None}),
        "holds no classifier of this library: .*size mismatch for dense.weight",
    ),
    "parameter-missing": (
        holding({"sizes": SIZES, "state": {}, "accuracy": None}),
        "holds no classifier of this library: .*Missing key",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_refused(damage, message, tmp_path):
    path = tmp_path / "classifier.pt"
    save_classifier(path, small())
    damage(path)
    with pytest.raises(DamagedFileError, match=rf"(?s)classifier.pt {message}"):
        load_classifier(path)
