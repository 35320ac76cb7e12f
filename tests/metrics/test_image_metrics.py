"""Inception score, Fréchet distance, precision, recall, density and coverage; the chunks they are computed in."""

import math
import warnings
import weakref

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.special import log_softmax, logsumexp
from support.games import normal, relative_error, same_bits
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import gan_influence as gi
from gan_influence.metrics import FrechetDistance, InceptionScore, neighbours, precision_recall_density_coverage
from gan_influence.metrics.metric import metric_gradients, metric_values

LATENTS = normal(1, 40, 32)
REFERENCE = normal(2, 50, 1, 8, 8).tanh()


class Classifier(nn.Module):
    """Six features and four classes of an image of 8 x 8 pixels, far enough apart for a score above 1."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Conv2d(1, 3, 3).double()
        self.hidden = nn.Linear(27, 6).double()
        self.output = nn.Linear(6, 4).double()
        for seed, parameter in enumerate(self.parameters()):
            parameter.data = 1.5 * normal(10 + seed, *parameter.shape)

    def features(self, images):
        maps = nn.functional.avg_pool2d(torch.sigmoid(self.maps(images)), 2)
        return torch.sigmoid(self.hidden(maps.flatten(1)))

    def forward(self, images):
        return 4 * self.output(self.features(images))


class Given(nn.Module):
    """Its parameters are the generated rows; a latent is the number of one."""

    def __init__(self, rows):
        super().__init__()
        self.rows = nn.Parameter(rows.clone())

    def forward(self, latents):
        return self.rows[latents[:, 0].long()]


def dcgan(dtype=torch.float64):
    return gi.Game(*gi.models.dcgan(channels=3, image_size=8, dtype=dtype, seed=0))


def giving(rows):
    return gi.Game(Given(rows), nn.Sequential(nn.Flatten(), nn.Linear(rows[0].numel(), 1)).to(rows.dtype))


def players(game, theta=None):
    return gi.Players(game, game.theta() if theta is None else theta)


def numbers(rows):
    return torch.arange(len(rows), dtype=rows.dtype)[:, None]


def score_of(logits, **options):
    return InceptionScore(nn.Identity(), numbers(logits), **options).value(players(giving(logits)))


def distance_of(generated, reference, features=None, **options):
    metric = FrechetDistance(features or nn.Identity(), reference, numbers(generated), **options)
    return metric.value(players(giving(generated)))


def inception(**options):
    return InceptionScore(Classifier(), LATENTS, **options)


def frechet(**options):
    return FrechetDistance(Classifier(), REFERENCE, LATENTS, **options)


BOTH = {"inception": inception, "frechet": frechet}
each_metric = pytest.mark.parametrize("make", BOTH.values(), ids=BOTH)


# Inception score: values


def textbook_score(logits):
    logs = log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
    marginal = np.exp(logs).mean(0)
    return math.exp((np.exp(logs) * (logs - np.log(marginal))).sum(1).mean())


def test_the_inception_score_is_the_papers_formula():
    logits = 3 * normal(3, 30, 5)
    assert float(score_of(logits)) == pytest.approx(textbook_score(logits), rel=1e-13)
    assert float(score_of(logits, logarithm=True)) == pytest.approx(math.log(textbook_score(logits)), rel=1e-13)


def test_the_inception_score_is_that_of_torchmetrics():
    theirs = pytest.importorskip("torchmetrics.image.inception", reason="torchmetrics is not installed")
    logits = 3 * normal(3, 30, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of its buffer, and of a standard deviation over one split
        score = theirs.InceptionScore(feature=nn.Identity(), splits=1)
        score.update(logits)
        expected, _ = score.compute()
    assert float(score_of(logits)) == pytest.approx(float(expected), rel=1e-13)


def test_images_all_alike_score_one_and_all_classes_with_certainty_score_their_number():
    assert float(score_of(normal(3, 1, 5).expand(20, 5))) == pytest.approx(1, rel=1e-14)
    certain = 2000 * torch.eye(5).double().repeat(4, 1)  # probabilities 1 and, underflown, 0
    assert float(score_of(certain)) == pytest.approx(5, rel=1e-14)
    game = giving(certain)
    assert metric_gradients(InceptionScore(nn.Identity(), numbers(certain)), game, game.theta()[None]).isfinite().all()


def test_the_inception_score_is_the_mutual_information_of_image_and_class():
    logits = 3 * normal(3, 30, 5)
    logs = log_softmax(logits.numpy(), axis=1)
    marginal = logsumexp(logs, axis=0) - math.log(30)
    information = (np.exp(logs) * logs).sum(1).mean() - (np.exp(marginal) * marginal).sum()  # H(y) - H(y | image)
    assert float(score_of(logits, logarithm=True)) == pytest.approx(information, rel=1e-12)


def test_a_common_shift_of_an_images_logits_changes_nothing():
    logits = normal(3, 30, 5)
    shifted = logits + 1e4 * normal(4, 30, 1).round()
    assert float(score_of(shifted)) == pytest.approx(float(score_of(logits)), rel=1e-10)


# Fréchet distance: values


def textbook_distance(generated, reference):
    (mean, covariance), (mean_r, covariance_r) = (
        (x.mean(0), np.cov(x, rowvar=False)) for x in (np.asarray(generated), np.asarray(reference))
    )
    root = sqrtm(covariance @ covariance_r)
    return ((mean - mean_r) ** 2).sum() + np.trace(covariance + covariance_r - 2 * root.real)


GENERATED_FEATURES = normal(5, 25, 6) @ normal(6, 6, 6)
REFERENCE_FEATURES = normal(7, 40, 6, mean=0.5) @ normal(8, 6, 6)


def test_the_frechet_distance_is_the_formula_with_scipys_square_root():
    expected = textbook_distance(GENERATED_FEATURES, REFERENCE_FEATURES)
    assert float(distance_of(GENERATED_FEATURES, REFERENCE_FEATURES)) == pytest.approx(expected, rel=1e-12)


def test_the_frechet_distance_is_that_of_torchmetrics():
    theirs = pytest.importorskip("torchmetrics.image.fid", reason="torchmetrics is not installed")
    network = nn.Identity()
    network.num_features = 6
    distance = theirs.FrechetInceptionDistance(feature=network)
    distance.update(REFERENCE_FEATURES, real=True)
    distance.update(GENERATED_FEATURES, real=False)
    ours = distance_of(GENERATED_FEATURES, REFERENCE_FEATURES)
    assert float(ours) == pytest.approx(float(distance.compute()), rel=1e-10)


def with_moments(seed, n, mean, deviations):
    """Rows whose mean is exactly the given one and whose covariance is exactly diagonal."""
    rows = normal(seed, n, len(mean))
    white = torch.linalg.qr(rows - rows.mean(0)).Q * math.sqrt(n - 1)
    return white * torch.tensor(deviations, dtype=torch.float64) + torch.tensor(mean, dtype=torch.float64)


def test_of_gaussians_along_the_axes_the_frechet_distance_is_that_of_means_and_deviations():
    one = with_moments(1, 12, mean=[0.0, 1.0, -2.0], deviations=[1.0, 2.0, 0.5])
    other = with_moments(2, 30, mean=[1.0, 1.0, 3.0], deviations=[3.0, 2.0, 0.1])
    expected = (1 + 0 + 25) + (4 + 0 + 0.4**2)
    assert float(distance_of(one, other)) == pytest.approx(expected, rel=1e-13)


def test_the_frechet_distance_to_itself_is_zero():
    assert float(distance_of(REFERENCE_FEATURES, REFERENCE_FEATURES)) == pytest.approx(0, abs=1e-12)


def turned(rows, width):
    """In a space of more dimensions, under a rotation: all distances stay, covariances become singular."""
    return rows @ torch.linalg.qr(normal(9, width, rows.shape[1])).Q.T


@pytest.mark.filterwarnings("ignore:.*too few:RuntimeWarning")
@pytest.mark.parametrize("width", [7, 20, 60], ids=["one-more", "between", "more-than-images"])
def test_singular_covariances_cost_the_frechet_distance_no_precision(width):
    expected = textbook_distance(GENERATED_FEATURES, REFERENCE_FEATURES)
    embedded = distance_of(turned(GENERATED_FEATURES, width), turned(REFERENCE_FEATURES, width))
    assert float(embedded) == pytest.approx(expected, rel=1e-12)


def test_a_feature_that_never_varies_adds_its_variance_in_the_other_set():
    dead, alive = torch.full((25, 1), 3.0).double(), with_moments(3, 40, mean=[5.0], deviations=[2.0])
    expected = textbook_distance(GENERATED_FEATURES, REFERENCE_FEATURES) + (5 - 3) ** 2 + 2**2
    generated, reference = torch.cat([GENERATED_FEATURES, dead], 1), torch.cat([REFERENCE_FEATURES, alive], 1)
    assert float(distance_of(generated, uncorrelated(reference))) == pytest.approx(expected, rel=1e-12)


def uncorrelated(rows):
    """The last column is freed of what the others explain, and gets its variance back."""
    centred = rows - rows.mean(0)
    others, last = centred[:, :-1], centred[:, -1:]
    rest = last - others @ torch.linalg.lstsq(others, last).solution
    return torch.cat([rows[:, :-1], rest * (last.norm() / rest.norm()) + rows[:, -1:].mean()], 1)


# Gradients


def ends(value, theta, direction, h):
    with torch.no_grad():
        return float(value(theta + h * direction) - value(theta - h * direction)) / (2 * h)


def assert_central_differences_converge_to(slope, value, theta, direction, h):
    """Their error falls fourfold when the step is halved, twice over."""
    errors = [abs(ends(value, theta, direction, step) - slope) for step in (h, h / 2, h / 4)]
    assert errors[0] < 0.05 * abs(slope)
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.05)


@each_metric
@pytest.mark.parametrize("seed", [1, 2])
def test_central_differences_through_a_generator_converge_to_the_gradient_at_second_order(make, seed):
    game, metric = dcgan(), make(chunk=9)
    theta = game.theta()
    direction = normal(seed, len(theta)) / math.sqrt(len(theta))
    (slope,) = metric_gradients(metric, game, theta[None])
    assert_central_differences_converge_to(
        float(slope @ direction), lambda at: metric.value(players(game, at)), theta, direction, h=0.02
    )


FEW = {"few-of-both": (5, 6), "few-latents": (5, 40), "few-reference-rows": (25, 6)}


@pytest.mark.filterwarnings("ignore:.*too few:RuntimeWarning")
@pytest.mark.parametrize(("n", "n_r"), FEW.values(), ids=FEW)
def test_with_fewer_images_than_features_the_gradient_is_still_that_of_differences(n, n_r):
    generated, reference = normal(1, n, 8), normal(2, n_r, 8, mean=0.3)
    game, direction = giving(generated), normal(3, n * 8 + 9)
    metric = FrechetDistance(nn.Identity(), reference, numbers(generated))
    theta = game.theta()
    (slope,) = metric_gradients(metric, game, theta[None])
    assert_central_differences_converge_to(
        float(slope @ direction), lambda at: metric.value(players(game, at)), theta, direction, h=0.02
    )


def test_at_the_kink_of_a_feature_that_never_varies_the_gradient_is_the_mean_of_both_slopes():
    generated, reference = normal(1, 25, 4) @ torch.diag(torch.tensor([1e3, 1, 1, 0])).double(), normal(2, 40, 4)
    game, direction = giving(generated), normal(3, 25 * 4 + 5)
    metric = FrechetDistance(nn.Identity(), reference, numbers(generated))
    theta, h = game.theta(), 1e-4
    (slope,) = metric_gradients(metric, game, theta[None])
    up, middle, down = (float(metric.value(players(game, theta + s * h * direction))) for s in (1, 0, -1))
    assert (middle - down) / h - (up - middle) / h > 0.5  # the kink: -2 |x|
    assert float(slope @ direction) == pytest.approx((up - down) / (2 * h), rel=1e-5)


def test_neither_equal_nor_small_singular_values_disturb_the_gradient():
    deviations, of_reference = torch.tensor([2, 2, 1e-4]).double(), torch.tensor([0.5, 0.5, 3e-4]).double()
    generated = with_moments(1, 12, [0.0, 1.0, -2.0], deviations.tolist())
    game, reference = giving(generated), with_moments(2, 30, [0.0, 0.0, 0.0], of_reference.tolist())
    (slope,) = metric_gradients(FrechetDistance(nn.Identity(), reference, numbers(generated)), game, game.theta()[None])
    mean = generated.mean(0)  # where covariances commute, the slope of Tr (C C_r)^(1/2) in C is C_r^(1/2) C^(-1/2) / 2
    expected = 2 * mean / 12 + 2 * (1 - of_reference / deviations) * (generated - mean) / 11
    for ours, theirs in zip(slope[: 12 * 3].view(12, 3).T, expected.T, strict=True):
        assert relative_error(ours, theirs) < 1e-9


@each_metric
@pytest.mark.parametrize("chunk", [9, 40], ids=["chunks", "at-once"])
def test_second_derivatives_are_those_of_differences_of_the_gradient(make, chunk):
    game, metric = dcgan(), make(chunk=chunk)
    theta, h = game.theta().requires_grad_(), 1e-4
    direction = normal(1, len(theta)) / math.sqrt(len(theta))
    (slope,) = torch.autograd.grad(metric.value(players(game, theta)), theta, create_graph=True)
    (product,) = torch.autograd.grad(slope @ direction, theta)
    around = torch.stack([theta.detach() + s * h * direction for s in (1, -1)])
    up, down = metric_gradients(metric, game, around)
    assert relative_error((up - down) / (2 * h), product) < 1e-6


# Chunks


@each_metric
@pytest.mark.parametrize("chunk", [1, 7, 20, 39, 500])
def test_neither_value_nor_gradient_depends_on_the_chunk(make, chunk):
    game = dcgan()
    thetas = game.theta()[None]
    at_once, chunked = make(chunk=40), make(chunk=chunk)
    torch.testing.assert_close(
        metric_values(chunked, game, thetas), metric_values(at_once, game, thetas), rtol=1e-12, atol=0
    )
    assert relative_error(metric_gradients(chunked, game, thetas), metric_gradients(at_once, game, thetas)) < 1e-12


@each_metric
def test_several_models_at_once_give_each_its_own_value(make):
    game, metric = dcgan(), make(chunk=7)
    thetas = torch.stack([game.theta() * (1 + 0.1 * k) for k in range(5)])  # more than metric_values takes at once
    alone = torch.stack([metric.value(players(game, theta)) for theta in thetas])
    assert alone.std() > 1e-6 * alone.mean().abs()
    torch.testing.assert_close(metric_values(metric, game, thetas), alone, rtol=1e-10, atol=0)


@each_metric
def test_functional_gradients_of_several_models_are_those_of_autograd(make):
    game, metric = dcgan(), make(chunk=7)
    thetas = torch.stack([game.theta(), game.theta() * 1.1])
    functional = torch.func.vmap(torch.func.grad(lambda theta: metric.value(players(game, theta))))(thetas)
    assert relative_error(functional, metric_gradients(metric, game, thetas)) < 1e-12


def test_autograd_through_vmap_gives_each_model_its_own_gradient():
    game, metric = dcgan(), frechet(chunk=7)
    thetas = torch.stack([game.theta(), game.theta() * 1.1]).requires_grad_()
    values = torch.func.vmap(lambda theta: metric.value(players(game, theta)))(thetas)
    (slopes,) = torch.autograd.grad(values.sum(), thetas)
    assert relative_error(slopes, metric_gradients(metric, game, thetas.detach())) < 1e-12


class Watched(nn.Module):
    """A generator that remembers how many of its graphs are there when it makes another one."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(32, 20).double(), nn.Linear(20, 64).double()
        self.graphs, self.alive = [], []

    def forward(self, latents):
        hidden = self.inner(latents).sigmoid()
        self.graphs.append(weakref.ref(hidden))
        self.alive.append(sum(graph() is not None for graph in self.graphs))
        return self.outer(hidden).tanh().view(-1, 1, 8, 8)


@each_metric
def test_one_chunks_graph_is_held_at_a_time(make):
    generator = Watched()
    game = gi.Game(generator, nn.Sequential(nn.Flatten(), nn.Linear(64, 1)).double())
    metric_gradients(make(chunk=4), game, game.theta()[None])
    assert len(generator.alive) == 2 * 10  # of the value, and once more for the gradient
    assert max(generator.alive) == 1


@each_metric
def test_images_that_fit_into_one_chunk_are_generated_once(make):
    generator = Watched()
    game = gi.Game(generator, nn.Sequential(nn.Flatten(), nn.Linear(64, 1)).double())
    metric_gradients(make(chunk=40), game, game.theta()[None])
    assert len(generator.alive) == 1


class Peak(TorchDispatchMode):
    """The most bytes that tensors made under it took at any one time."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.known = weakref.WeakSet()

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        output = operation(*arguments, **(keywords or {}))
        for tensor in output if isinstance(output, tuple | list) else [output]:
            if isinstance(tensor, torch.Tensor):
                self.count(tensor.untyped_storage())
        return output

    def count(self, storage):
        if storage not in self.known:
            self.known.add(storage)
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self.forget, storage.nbytes())

    def forget(self, size):
        self.now -= size


def peak(metric, of_gradient):
    game = dcgan()
    measure = metric_gradients if of_gradient else metric_values
    with Peak() as peak:
        measure(metric, game, game.theta()[None])
    return peak.most


@pytest.mark.parametrize("of_gradient", [False, True], ids=["value", "gradient"])
@each_metric
def test_memory_grows_with_the_chunk_and_hardly_with_the_latents(make, of_gradient):
    def of(latents, chunk):
        metric = make(chunk=chunk)
        metric.latents = normal(1, latents, 32)
        return peak(metric, of_gradient)

    assert of(400, chunk=40) < 1.5 * of(100, chunk=40)  # what grows are ten outputs a latent and what is made of them
    assert of(400, chunk=400) > 4 * of(400, chunk=40)


# Data types


@each_metric
def test_float32_players_give_a_float64_value_and_a_float32_gradient(make):
    game = dcgan(torch.float32)
    theta = game.theta().requires_grad_()
    value = single(make).value(players(game, theta))
    assert value.dtype == torch.float64
    assert not same_bits(value.detach(), value.detach().float().double())
    (slope,) = torch.autograd.grad(value, theta)
    assert slope.dtype == torch.float32
    (expected,) = metric_gradients(make(), dcgan(), theta.detach().double()[None])
    assert relative_error(slope.double(), expected) < 1e-4


def single(make, **options):
    if make is inception:
        return InceptionScore(Classifier(), LATENTS.float(), **options)
    return FrechetDistance(Classifier(), REFERENCE.float(), LATENTS.float(), **options)


def test_statistics_of_float32_outputs_are_taken_in_float64():
    logits = (3 * normal(3, 200, 5)).float()
    assert float(score_of(logits)) == pytest.approx(textbook_score(logits), rel=1e-13)
    generated, reference = GENERATED_FEATURES.float(), REFERENCE_FEATURES.float()
    expected = textbook_distance(generated.double(), reference.double())
    assert float(distance_of(generated, reference)) == pytest.approx(expected, rel=1e-12)


def test_features_far_from_zero_lose_no_digits():
    far = 2.0**20
    generated, reference = GENERATED_FEATURES.float().double(), REFERENCE_FEATURES.float().double()
    expected = textbook_distance(generated, reference)
    assert float(distance_of(generated + far, reference + far)) == pytest.approx(expected, rel=1e-9)


# The networks


def test_every_way_of_naming_the_features_gives_the_same_distance():
    game, network = dcgan(), Classifier()

    class Features(nn.Module):
        def forward(self, images):
            return network.features(images)[:, :, None]  # flattened again

    ways = [network, network.features, Features(), lambda images: network.features(images)]
    metrics = [FrechetDistance(way, REFERENCE, LATENTS) for way in (*ways, network.forward)]
    *values, of_logits = [float(metric.value(players(game)).detach()) for metric in metrics]
    assert values == [values[0]] * 4
    assert of_logits != values[0]
    assert not any(metric.mean.requires_grad or metric.factor.requires_grad for metric in metrics)


def test_a_submodule_called_features_is_no_method_and_the_outputs_count():
    network = nn.Sequential()
    network.features, network.head = nn.Flatten(), nn.Sequential(nn.Flatten(), nn.Linear(64, 3).double())
    network.forward = lambda images: network.head(network.features(images))
    assert len(FrechetDistance(network, REFERENCE, LATENTS).mean) == 3


def test_later_training_of_the_network_does_not_reach_the_metric():
    game = dcgan()
    for make in (lambda n: InceptionScore(n, LATENTS), lambda n: FrechetDistance(n.features, REFERENCE, LATENTS)):
        network = Classifier()
        metric = make(network)
        before = metric.value(players(game))
        for parameter in network.parameters():
            parameter.data.zero_()
        assert same_bits(metric.value(players(game)).detach(), before.detach())


def test_the_callers_network_and_its_mode_are_left_alone_and_dropout_is_off():
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 4)).double()
    for make in (lambda: InceptionScore(network, LATENTS), lambda: FrechetDistance(network, REFERENCE, LATENTS)):
        metric, game = make(), dcgan()
        assert float(metric.value(players(game))) == float(metric.value(players(game)))
        assert network.training
        assert all(parameter.requires_grad for parameter in network.parameters())
        metric.value(players(game, game.theta().requires_grad_())).backward()
        assert all(parameter.grad is None for parameter in network.parameters())


def test_later_changes_to_the_callers_tensors_do_not_reach_the_metric():
    game, latents, reference = dcgan(), LATENTS.clone(), REFERENCE.clone()
    metrics = InceptionScore(Classifier(), latents), FrechetDistance(Classifier(), reference, latents)
    latents.zero_(), reference.zero_()
    for metric, make in zip(metrics, BOTH.values(), strict=True):
        assert float(metric.value(players(game))) == float(make().value(players(game)))


@pytest.mark.parametrize("accuracy", [0.5, 0.899, 0, math.nan, np.float32(0.1), None])
def test_a_classifier_that_never_learned_is_refused_unless_one_insists(accuracy):
    network = Classifier()
    network.accuracy = accuracy
    message = rf"accuracy is {accuracy}, which does not reach 0.9: .*without meaning.* insist with least_accuracy=0"
    with pytest.raises(ValueError, match=message):
        InceptionScore(network, LATENTS)
    InceptionScore(network, LATENTS, least_accuracy=0)


def test_a_classifier_that_reaches_the_least_accuracy_or_does_not_know_its_own_is_taken():
    network = Classifier()
    InceptionScore(network, LATENTS)
    for accuracy, options in ((0.9, {}), (0.4, {"least_accuracy": 0.4}), (network.forward, {})):
        network.accuracy = accuracy
        InceptionScore(network, LATENTS, **options)


# Training


@each_metric
def test_itd_of_it_is_the_derivative_of_training_in_the_rows_weights(make):
    game, data, h = dcgan(), REFERENCE[:4], 1e-4
    metric = make(chunk=9)

    def trained(**options):
        return gi.train(game, data, gi.FullBatch(normal(4, 5, 32)), 3, gi.SGD(0.5), **options)

    def weighted(row, change):
        weights = torch.ones(4).double()
        weights[row] += change
        return float(metric(trained(weights=weights)))

    expected = [-(weighted(row, h) - weighted(row, -h)) / (2 * h) for row in range(4)]
    assert gi.itd(trained(), metric).tolist() == pytest.approx(expected, rel=1e-4)


@each_metric
def test_the_metric_of_a_trace_is_measured_at_its_end(make):
    trace = gi.train(dcgan(), REFERENCE[:4], gi.FullBatch(normal(4, 5, 32)), 2, gi.SGD(0.5))
    value = make()(trace)
    assert value.ndim == 0
    assert not value.requires_grad
    assert float(value) == float(make().value(players(trace.game, trace.theta(2))))


@pytest.mark.gpu
@each_metric
def test_players_on_a_gpu_take_a_network_and_a_reference_from_the_cpu(make, cuda):
    game, metric = dcgan(), make(chunk=9)
    there = players(game.snapshot(cuda), game.theta().to(cuda))
    assert float(metric.value(there)) == pytest.approx(float(metric.value(players(game))), rel=1e-10)


# Bad input

OPTIONS = {
    "chunk": ({"chunk": 0}, r"chunk must be a whole number of rows >= 1, got 0"),
    "fraction": ({"chunk": 2.5}, r"chunk must be .*got 2.5"),
}


@each_metric
@pytest.mark.parametrize(("options", "message"), OPTIONS.values(), ids=OPTIONS)
def test_bad_options_are_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


class Pair(nn.Module):
    def forward(self, images):
        return images, images


def two_logits(images):
    return images.flatten(1)[:, :2]


BAD_INPUT = {
    "no-module": (lambda: InceptionScore(two_logits, LATENTS), TypeError, r"classifier must be .*Module, got function"),
    "no-latents": (lambda: InceptionScore(Classifier(), LATENTS[:0]), ValueError, r"latents must hold at least one"),
    "nan-latents": (
        lambda: InceptionScore(Classifier(), LATENTS * math.nan),
        ValueError,
        r"latents contains NaN or infinity",
    ),
    "least-accuracy": (
        lambda: inception(least_accuracy=90),
        ValueError,
        r"least_accuracy must be a number from 0 to 1, got 90",
    ),
    "no-callable": (
        lambda: FrechetDistance("inception", REFERENCE, LATENTS),
        TypeError,
        r"features must be a module or a function of images, got str",
    ),
    "one-row": (
        lambda: FrechetDistance(Classifier(), REFERENCE[:1], LATENTS),
        ValueError,
        r"reference must hold at least two rows: one has no covariance",
    ),
    "one-latent": (lambda: FrechetDistance(Classifier(), REFERENCE, LATENTS[:1]), ValueError, r"latents must hold at"),
    "two-types": (
        lambda: FrechetDistance(Classifier(), REFERENCE.float(), LATENTS),
        TypeError,
        r"reference is torch.float32, but latents are torch.float64",
    ),
    "no-row-an-image": (
        lambda: FrechetDistance(lambda images: images.sum(), REFERENCE, LATENTS),
        ValueError,
        r"features gave shape \(\) for 50 images: it must give one row an image",
    ),
    "no-tensor": (
        lambda: FrechetDistance(lambda images: None, REFERENCE, LATENTS),
        ValueError,
        r"features gave NoneType for 50 images",
    ),
    "nan-features": (
        lambda: FrechetDistance(lambda images: (images[:, 0, 0] - images[0, 0, 0]).log(), REFERENCE[:5], LATENTS),
        ValueError,
        r"features gave NaN or infinity for 5 of the 5 reference images",
    ),
    "batch-statistics": (
        lambda: InceptionScore(nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False)), LATENTS),
        ValueError,
        r"the classifier's BatchNorm2d '0' has no running statistics, so that an image's outputs would depend",
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


BAD_VALUES = {
    "no-logits": (
        lambda: InceptionScore(nn.Flatten(0), LATENTS),
        r"classifier returned shape \(2560,\) for 40 images: it must return logits of two classes or more, \(40, cl",
    ),
    "pair": (
        lambda: InceptionScore(Pair(), LATENTS),
        r"classifier returned tuple for 40 images: it must return logits",
    ),
    "one-class": (
        lambda: InceptionScore(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), LATENTS),
        r"shape \(40, 1\) for 40 images",
    ),
    "image-shape": (
        lambda: FrechetDistance(nn.Flatten(), normal(0, 70, 64), LATENTS),
        r"makes images of shape \(1, 8, 8\), but the metric's reference has images of shape \(64,\)",
    ),
    "width": (
        lambda: FrechetDistance(lambda images: images.flatten(1)[:, : 80 - len(images)], REFERENCE, LATENTS),
        r"features gave 30 numbers for a reference image, but 40 for a generated one",
    ),
}


@pytest.mark.filterwarnings("ignore:.*too few:RuntimeWarning")
@pytest.mark.parametrize(("make", "message"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_outputs_that_fit_nothing_are_refused(make, message):
    metric = make()
    with pytest.raises(ValueError, match=message):
        metric.value(players(dcgan()))


@pytest.mark.parametrize("make", [lambda rows: InceptionScore(nn.Identity(), numbers(rows)), None], ids=BOTH)
def test_outputs_that_are_not_finite_are_counted_and_where_that_is_impossible_give_nan(make):
    make = make or (lambda rows: FrechetDistance(nn.Identity(), REFERENCE_FEATURES, numbers(rows)))
    spoilt = GENERATED_FEATURES.clone()
    spoilt[3, 1], spoilt[7] = math.inf, math.nan
    metric, game = make(spoilt), giving(GENERATED_FEATURES)
    with pytest.raises(ValueError, match=r"gave NaN or infinity for 2 of the 25 generated images"):
        metric.value(players(giving(spoilt)))
    values = metric_values(metric, game, torch.stack([game.theta(), giving(spoilt).theta(), game.theta()]))
    assert values.isnan().tolist() == [False, True, False]
    assert float(values[0]) == pytest.approx(float(metric.value(players(game))), rel=1e-10)


def test_too_few_images_for_the_features_are_warned_of():
    rows = normal(1, 20, 6)
    FrechetDistance(nn.Identity(), rows[:7], rows[:7])
    with pytest.warns(RuntimeWarning, match=r"6 reference rows are too few for 6 features: .*at least 7 reference ro"):
        FrechetDistance(nn.Identity(), rows[:6], rows[:7])
    with pytest.warns(RuntimeWarning, match=r"6 latents are too few for 6 features: their covariance is singular"):
        FrechetDistance(nn.Identity(), rows[:7], rows[:6])


@each_metric
def test_players_without_a_generator_or_of_another_type_are_refused(make):
    one_player = players(gi.Game(None, nn.Linear(1, 1).double(), loss="squared_error"))
    with pytest.raises(TypeError, match=rf"{type(make()).__name__} measures a generator, but this game has one player"):
        make().value(one_player)
    with pytest.raises(TypeError, match=r"parameters are torch.float32, but the metric's .* torch.float64"):
        make().value(players(dcgan(torch.float32)))


# Precision, recall, density, coverage

REAL, FAKE = normal(1, 60, 5), 0.8 * normal(2, 45, 5) + 0.4
each_k = pytest.mark.parametrize("k", [1, 3, 5])


def brute_force(real, fake, k):
    """Naeem et al. 2020, eq. 3 to 6, one ball after another."""

    def apart(one, other):
        return math.sqrt(((one - other) ** 2).sum())

    def radius(rows, i):
        return sorted(apart(rows[i], row) for j, row in enumerate(rows) if j != i)[k - 1]

    real, fake = real.numpy(), fake.numpy()
    real_balls = [(row, radius(real, i)) for i, row in enumerate(real)]
    fake_balls = [(row, radius(fake, i)) for i, row in enumerate(fake)]
    around = [sum(apart(row, centre) < r for centre, r in real_balls) for row in fake]
    return (
        sum(count > 0 for count in around) / len(fake),
        sum(any(apart(row, centre) < r for centre, r in fake_balls) for row in real) / len(real),
        sum(around) / (k * len(fake)),
        sum(any(apart(row, centre) < r for row in fake) for centre, r in real_balls) / len(real),
    )


@each_k
def test_precision_recall_density_and_coverage_are_those_of_every_ball_by_itself(k):
    expected = brute_force(REAL, FAKE, k)
    assert min(expected) > 0
    assert tuple(precision_recall_density_coverage(REAL, FAKE, k)) == pytest.approx(expected, rel=1e-14)


@each_k
def test_precision_recall_density_and_coverage_are_those_of_the_authors_package(k):
    prdc = pytest.importorskip("prdc", reason="the authors' package prdc is not installed")
    ours = precision_recall_density_coverage(REAL, FAKE, k)._asdict()
    assert ours == pytest.approx(prdc.compute_prdc(REAL.numpy(), FAKE.numpy(), nearest_k=k), rel=1e-14)


def test_five_neighbours_are_the_default():
    assert precision_recall_density_coverage(REAL, FAKE) == precision_recall_density_coverage(REAL, FAKE, k=5)


def test_copies_of_the_real_rows_are_perfect_however_far_from_zero():
    far = normal(0, 61, 7, mean=1000)  # each copy lies on the spheres of some others, and no rounding may move it
    assert precision_recall_density_coverage(far, far.flip(0), k=5) == (1, 1, 1, 1)


def test_rows_on_a_sphere_are_outside():
    real, fake = torch.tensor([[3.0], [4.0], [10.0]]), torch.tensor([[0.0], [1.0], [2.0]])
    assert precision_recall_density_coverage(real, fake, k=1) == (0, 0, 0, 0)


def test_distances_of_float32_features_are_float64():
    real, fake = torch.tensor([[0.0, 0.0], [1.0, 1e-5]]), torch.tensor([[-1.0, 0.0], [-9.0, 0.0]])
    assert precision_recall_density_coverage(real, fake, k=1).precision == 0.5  # the radius is 1 + 5e-11


def test_fakes_far_away_are_worth_nothing_although_they_spread():
    assert precision_recall_density_coverage(REAL, 100 + FAKE) == (0, 0, 0, 0)


def test_many_fakes_in_the_densest_place_raise_the_density_above_one_and_cover_little():
    real = torch.cat([0.1 * normal(1, 40, 2), 50 + 10 * normal(2, 40, 2)])
    found = precision_recall_density_coverage(real, 0.01 * normal(3, 50, 2))
    assert found.precision == 1
    assert found.density > 1
    assert found.coverage <= 0.5


@pytest.mark.parametrize("block", [1, 45, 1000])
def test_the_blocks_change_nothing_and_bound_what_is_held(monkeypatch, block):
    expected = precision_recall_density_coverage(REAL, FAKE)
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    with Largest() as largest:
        assert precision_recall_density_coverage(REAL, FAKE) == expected
    assert largest.entries <= max(block, 6 * 60)  # six neighbours of each row are kept


class Largest(TorchDispatchMode):
    """The largest number of entries that an operation has put out."""

    entries = 0

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        output = operation(*arguments, **(keywords or {}))
        for tensor in output if isinstance(output, tuple | list) else [output]:
            if isinstance(tensor, torch.Tensor):
                self.entries = max(self.entries, tensor.numel())
        return output


def test_features_of_several_dimensions_are_flattened():
    real, fake = normal(1, 20, 2, 3), normal(2, 20, 2, 3)
    expected = precision_recall_density_coverage(real.flatten(1), fake.flatten(1))
    assert precision_recall_density_coverage(real, fake) == expected


BAD_FEATURES = {
    "k": ({"k": 0}, ValueError, r"k must be a whole number of neighbours >= 1, got 0"),
    "few": ({"fake_features": FAKE[:5]}, ValueError, r"fake_features must hold at least k \+ 1 = 6 rows, got 5"),
    "width": ({"fake_features": FAKE[:, :3]}, ValueError, r"real_features have 5 numbers .*fake_features have 3"),
    "nan": ({"real_features": REAL * math.nan}, ValueError, r"real_features contains NaN or infinity"),
    "array": ({"real_features": REAL.numpy()}, TypeError, r"real_features must be a floating-point tensor"),
}


@pytest.mark.parametrize(("changes", "error", "message"), BAD_FEATURES.values(), ids=BAD_FEATURES)
def test_features_without_neighbours_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        precision_recall_density_coverage(**({"real_features": REAL, "fake_features": FAKE} | changes))
