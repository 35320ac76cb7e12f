"""Latents that are a tree, one argument of the generator, measure what the tensor they were taken from does."""

import pytest
import torch
from support.games import normal, relative_error
from torch import nn

import gan_influence as gi
from gan_influence.metrics import AverageLogLikelihood, DiscriminatorLoss, FrechetDistance, InceptionScore
from gan_influence.metrics.metric import metric_gradients, metric_values

K = 11
STYLES, NOISE, KINDS = normal(1, K, 3), normal(2, K, 1, 2, 2), torch.arange(K) % 3
REFERENCE = normal(3, 20, 4)
torch.manual_seed(0)
BODY = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4)).double()
EMBEDDING = nn.Embedding(3, 1).double()
CLASSIFIER = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
DISCRIMINATOR = nn.Linear(4, 1).double()


class Generator(nn.Module):
    """Of styles, noise and a number of a kind, however they come."""

    def __init__(self, parts):
        super().__init__()
        self.body, self.kinds, self.parts = BODY, EMBEDDING, parts

    def forward(self, latents):
        styles, noise, kinds = self.parts(latents)
        return self.body(torch.cat([styles, noise.flatten(1), self.kinds(kinds)], dim=1))


FORMS = {
    "tensor": (
        torch.cat([STYLES, NOISE.flatten(1), KINDS[:, None].double()], dim=1),
        lambda z: (z[:, :3], z[:, 3:7], z[:, 7].long()),
    ),
    "dict": (
        {"z": STYLES, "noise": (NOISE,), "kind": KINDS, "crossover": None},
        lambda z: (z["z"], z["noise"][0], z["kind"]),
    ),
    "tuple": ((STYLES, NOISE, KINDS), lambda z: z),
}
METRICS = {
    "frechet": lambda latents, **chunk: FrechetDistance(nn.Tanh(), REFERENCE, latents, **chunk),
    "inception": lambda latents, **chunk: InceptionScore(CLASSIFIER, latents, **chunk),
    "likelihood": lambda latents: AverageLogLikelihood(REFERENCE, latents),
    "discriminator": lambda latents: DiscriminatorLoss(REFERENCE, latents),
}
each_metric = pytest.mark.parametrize("make", METRICS.values(), ids=METRICS)
in_chunks = pytest.mark.parametrize("make", list(METRICS.values())[:2], ids=list(METRICS)[:2])
each_tree = pytest.mark.parametrize("form", ["dict", "tuple"])


def game(form):
    return gi.Game(Generator(FORMS[form][1]), DISCRIMINATOR, loss="non_saturating")


def measured(make, form, **chunk):
    own = game(form)
    metric, theta = make(FORMS[form][0], **chunk), own.theta()
    players = gi.Players(own, theta)
    if hasattr(metric, "check"):
        metric.check(players)
    return metric.value(players).detach(), metric_gradients(metric, own, theta[None])[0]


@each_metric
@each_tree
def test_value_and_gradient_are_those_of_one_tensor(make, form):
    (value, gradient), (expected, slope) = measured(make, form), measured(make, "tensor")
    assert float(value) == pytest.approx(float(expected), rel=1e-13)
    assert relative_error(gradient, slope) < 1e-12
    assert slope.any()


@in_chunks
@each_tree
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_neither_value_nor_gradient_depends_on_the_chunk(make, form, chunk):
    (value, gradient), (expected, slope) = measured(make, form, chunk=chunk), measured(make, form, chunk=K)
    assert float(value) == pytest.approx(float(expected), rel=1e-13)
    assert relative_error(gradient, slope) < 1e-11


@each_metric
def test_several_models_are_measured_together(make):
    own, metric = game("dict"), make(FORMS["dict"][0])
    thetas = torch.stack([own.theta(), 1.1 * own.theta()])
    alone = torch.stack([metric.value(gi.Players(own, theta)) for theta in thetas]).detach()
    assert relative_error(metric_values(metric, own, thetas), alone) < 1e-13


def test_scores_of_a_run_are_those_of_one_tensor():
    """Training and metric both take trees."""

    def scores(form):
        latents = FORMS[form][0]
        trace = gi.train(game(form), normal(5, 8, 4), gi.FullBatch(latents), 5, gi.SGD(0.1))
        return gi.itd(trace, METRICS["frechet"](latents, chunk=4))

    assert relative_error(scores("dict"), scores("tensor")) < 1e-11


@each_metric
def test_later_changes_to_the_callers_latents_do_not_reach_the_metric(make):
    latents = {"z": STYLES.clone(), "noise": (NOISE.clone(),), "kind": KINDS.clone()}
    metric, players = make(latents), gi.Players(game("dict"), game("dict").theta())
    before = metric.value(players)
    latents["z"] *= 2
    latents["noise"][0].zero_()
    assert torch.equal(metric.value(players), before)


BAD = {
    "lengths": (
        {"z": STYLES, "noise": (NOISE[:5],)},
        ValueError,
        r"as many rows each, but latents\['z'\] has 11, latents\['noise'\]\[0\] has 5",
    ),
    "nan": ({"z": STYLES, "noise": (NOISE * torch.nan,)}, ValueError, r"latents\['noise'\]\[0\] contains NaN"),
    "empty": ((STYLES, KINDS[:0]), ValueError, r"latents\[1\] must hold at least one row"),
    "no-tensor": ({"z": STYLES, "kind": [1, 2]}, TypeError, r"latents\['kind'\]\[0\] must be a floating-point tensor"),
    "array": ({"z": STYLES.numpy()}, TypeError, r"latents\['z'\] must be .* convert it with torch.from_numpy"),
    "whole": ({"kind": KINDS}, TypeError, r"latents\['kind'\] must be a floating-point tensor, got torch.int64"),
    "nothing": ({}, TypeError, r"latents must hold a floating-point tensor, got \{\}"),
    "types": ((STYLES, NOISE.float()), TypeError, r"latents are torch.float32 and torch.float64"),
}


@pytest.mark.parametrize(("latents", "error", "message"), BAD.values(), ids=BAD)
@each_metric
def test_bad_trees_are_named(make, latents, error, message):
    with pytest.raises(error, match=message):
        make(latents)


def test_a_reference_of_levels_is_that_of_its_images():
    levels = torch.arange(160, dtype=torch.uint8).reshape(40, 4)
    latents = FORMS["dict"][0]
    of_levels, of_images = (
        FrechetDistance(nn.Tanh(), reference, latents, chunk=7) for reference in (levels, levels.double() / 127.5 - 1)
    )
    players = gi.Players(game("dict"), game("dict").theta())
    assert torch.equal(of_levels.value(players), of_images.value(players))
    assert of_levels.dtype == torch.float64
