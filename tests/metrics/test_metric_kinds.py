"""A metric is a number, the same at every call, of each row by itself; what is not is refused with its name."""

import copy

import pytest
import torch
from support.games import mlp, normal
from torch import nn

import gan_influence as gi
from gan_influence.metrics import FrechetDistance, InceptionScore

REFERENCE, LATENTS = normal(3, 20, 2, mean=0.5), normal(4, 12, 2)


def trace_of(generator=None, steps=3):
    return mlp(**({} if generator is None else {"generator": generator})).train(steps)


class Standardised(nn.Module):
    """By the statistics of what it is given together, over all or over neighbours."""

    def __init__(self, how=lambda y: (y - y.mean(0)) / (y.std(0) + 1e-3)):
        super().__init__()
        self.inner, self.how = copy.deepcopy(mlp().generator), how

    def forward(self, z):
        return self.how(self.inner(z))


MIXING = {
    "mean-and-deviation": Standardised(),
    "mean-alone": Standardised(lambda y: y - y.mean(0)),
    "neighbours": Standardised(lambda y: y + 0.1 * y.roll(1, 0)),
    "batch-norm": nn.Sequential(copy.deepcopy(mlp().generator), nn.BatchNorm1d(2, track_running_stats=False).double()),
}


def classifier():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 4)).double()


METRICS = {
    "frechet": lambda **options: FrechetDistance(nn.Identity(), REFERENCE, LATENTS, **options),
    "inception": lambda **options: InceptionScore(classifier(), LATENTS, **options),
}
each_metric = pytest.mark.parametrize("make", METRICS.values(), ids=METRICS)


@pytest.mark.filterwarnings("ignore:12 latents are too few")
@each_metric
@pytest.mark.parametrize("generator", MIXING.values(), ids=MIXING)
@pytest.mark.parametrize("chunk", [3, 100])
def test_a_generator_that_mixes_rows_is_refused_whatever_the_chunk(make, generator, chunk):
    trace, metric = trace_of(generator), make(chunk=chunk)
    for ask in (metric, lambda trace: gi.itd(trace, metric), lambda trace: gi.counterfactual(trace, metric, [[0]])):
        with pytest.raises(ValueError, match=r"the generator gives a row another output beside other rows than alone"):
            ask(trace)


FEATURES = {
    "centred": lambda x: x - x.mean(0),
    "ranked": lambda x: x.argsort(0).double(),
    "softmax-over-rows": lambda x: x.softmax(0),
}


@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES)
def test_features_that_mix_the_images_of_a_chunk_are_refused(features):
    with pytest.raises(ValueError, match=r"the feature extractor gives a row another output beside other rows"):
        FrechetDistance(features, REFERENCE, LATENTS)


def test_a_classifier_that_mixes_the_images_of_a_chunk_is_refused():
    class Centring(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = classifier()

        def forward(self, x):
            logits = self.inner(x)
            return logits - logits.mean(0)

    with pytest.raises(ValueError, match=r"the classifier gives a row another output beside other rows"):
        InceptionScore(Centring(), LATENTS)(trace_of())


NOISY = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Dropout(0.5)).double()


@pytest.mark.parametrize(
    "features", [lambda x: NOISY(x), lambda x: x + 0.1 * torch.randn_like(x)], ids=["dropout", "noise"]
)
def test_noisy_features_are_refused(features):
    with pytest.raises(ValueError, match=r"the feature extractor gives something else for the same rows at each call"):
        FrechetDistance(features, REFERENCE, LATENTS)


@pytest.mark.parametrize(
    "features",
    [lambda x: torch.complex(x, 10 * x**2), lambda x: x.round().long(), lambda x: x > 0],
    ids=["complex", "whole", "bool"],
)
def test_features_are_real_and_floating_point(features):
    with pytest.raises(TypeError, match=r"features gave torch\.\w+ numbers: they must be real and floating-point"):
        FrechetDistance(features, REFERENCE, LATENTS)


class Fresh:
    def value(self, players):
        return players.generate(torch.randn(50, 2).double()).pow(2).mean()


class Alternating:
    calls = 0

    def value(self, players):
        self.calls += 1
        return players.generate(LATENTS).mean() * (1 + self.calls % 2)


@pytest.mark.filterwarnings("ignore:metric Fresh is measured of one model")
@pytest.mark.parametrize("metric", [Fresh(), Alternating()], ids=["fresh-latents", "alternating"])
@pytest.mark.parametrize(
    "estimate",
    [gi.itd, lambda *of: gi.aid(*of, terms=3), lambda *of: gi.counterfactual(*of, [[0]])],
    ids=["itd", "aid", "counterfactual"],
)
def test_a_metric_of_ones_own_that_differs_from_call_to_call_is_refused(metric, estimate):
    with pytest.raises(ValueError, match=rf"metric {type(metric).__name__} gives something else for the same players"):
        estimate(trace_of(), metric)


class Of:
    def __init__(self, function):
        self.function = function

    def value(self, players):
        return self.function(players.generate(LATENTS))


NOT_FINITE = {
    "nan": lambda y: torch.log(-y.abs().mean()),
    "infinite": lambda y: y.mean() / 0,
    "late-nan": lambda y: torch.log(y.mean() - 100),
}


@pytest.mark.parametrize("function", NOT_FINITE.values(), ids=NOT_FINITE)
@pytest.mark.parametrize(
    "estimate",
    [
        gi.itd,
        lambda *of: gi.itd(*of, at=[1, 3]),
        lambda *of: gi.aid(*of, terms=3),
        lambda *of: gi.counterfactual(*of, [[0]]),
    ],
    ids=["itd", "stops", "aid", "counterfactual"],
)
def test_a_metric_that_is_not_finite_is_an_error_that_names_it(function, estimate):
    with pytest.raises(ValueError, match=r"metric Of is (nan|-?inf|NaN or infinite)"):
        estimate(trace_of(), Of(function))


def test_a_slope_that_is_not_finite_is_an_error_that_says_so():
    with pytest.raises(ValueError, match=r"metric Of has a slope that is NaN or infinite in \d+ of \d+ parameters"):
        gi.itd(trace_of(), Of(lambda y: (y - y).square().sum().sqrt() + y.mean()))


@pytest.mark.parametrize(
    ("last", "warns"),
    [(nn.Softmax(1), True), (nn.LogSoftmax(1), False), (nn.Identity(), False)],
    ids=["softmax", "log-softmax", "logits"],
)
def test_a_classifier_that_gives_probabilities_warns(last, warns, recwarn):
    score = InceptionScore(nn.Sequential(classifier(), last), LATENTS)(trace_of())
    said = [one for one in recwarn if "gives probabilities, as if it ended in a softmax" in str(one.message)]
    assert bool(said) == warns
    if isinstance(last, nn.LogSoftmax):  # the softmax of logarithms of probabilities is these probabilities
        assert float(score) == pytest.approx(float(InceptionScore(classifier(), LATENTS)(trace_of())), rel=1e-12)


@pytest.mark.parametrize("act", [lambda x: x.mul_(2), lambda x: x.add_(1).clamp_(min=0)])
def test_features_that_work_in_place_change_neither_reference_nor_images(act):
    reference = REFERENCE.clone()
    metric = FrechetDistance(lambda x: act(x), reference, LATENTS)
    apart = FrechetDistance(lambda x: act(x.clone()), REFERENCE, LATENTS)
    trace = trace_of()
    assert torch.equal(reference, REFERENCE)
    first = metric(trace)
    assert float(first) == float(metric(trace)) == float(apart(trace))
    assert torch.equal(gi.itd(trace, metric), gi.itd(trace, apart))


def test_a_metric_that_torch_cannot_batch_is_measured_of_one_model_after_another():
    class Reads:
        def value(self, players):
            generated = players.generate(LATENTS)
            return generated.mean() * (2.0 if generated.mean().item() > 1e9 else 1.0)

    trace = trace_of(steps=12)
    with pytest.warns(RuntimeWarning, match=r"metric Reads is measured of one model after another"):
        truth = gi.counterfactual(trace, Reads(), [[0], [1]])
    expected = gi.counterfactual(trace, Of(lambda y: y.mean()), [[0], [1]])
    torch.testing.assert_close(truth, expected, rtol=0, atol=1e-14)


def test_a_numpy_reference_is_told_how_to_become_a_tensor():
    with pytest.raises(TypeError, match=r"reference must be a floating-point tensor, got ndarray: .*torch.from_numpy"):
        gi.metrics.AverageLogLikelihood(REFERENCE.numpy(), LATENTS)


@pytest.mark.parametrize(
    ("loss", "targets", "message"),
    [
        ("binary_cross_entropy", torch.tensor([-1.0, 1, 1, -1]), r"-1"),
        ("binary_cross_entropy", torch.tensor([0.0, 255, 0, 255]), r"255"),
        ("cross_entropy", torch.tensor([0, 1, -100, 1]), r"-100"),
    ],
)
def test_labels_that_the_loss_would_take_for_something_else_are_refused_before_training(loss, targets, message):
    outputs = 1 if loss.startswith("binary") else 3
    game = gi.Game(None, nn.Linear(2, outputs).double(), loss)
    with pytest.raises(ValueError, match=message):
        gi.train(game, (normal(0, 4, 2), targets.double() if outputs == 1 else targets), gi.FullBatch(), 2, gi.SGD(0.1))


def test_without_a_place_to_show_it_there_is_no_progress_bar(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    problem = mlp()
    trace = gi.train(problem.game(), problem.data, problem.schedule, 3, gi.SGD(0.1), progress=True)
    gi.itd(trace, problem.metric(), progress=True)
    gi.aid(trace, problem.metric(), terms=3, progress=True)
    assert gi.counterfactual(trace, problem.metric(), [[0]], progress=True).isfinite().all()


def test_stopping_times_may_be_a_tensor_or_an_array():
    trace, metric = trace_of(steps=9), mlp().metric()
    expected = gi.itd(trace, metric, at=[3, 9])
    assert torch.equal(gi.itd(trace, metric, at=torch.tensor([3, 9])), expected)
    assert torch.equal(gi.itd(trace, metric, at=torch.tensor([3, 9]).numpy()), expected)


def test_the_averaged_generators_parameters_are_those_that_metrics_see():
    problem = mlp()
    trace = problem.train(9, ema_decay=0.9)
    trained, averaged = trace.parameters(), trace.parameters(averaged=True)
    for name, value in averaged["generator"].items():
        assert torch.equal(value, trace.game.parameters(trace.seen())["generator"][name])
        assert not torch.equal(value, trained["generator"][name])
    assert all(torch.equal(averaged["discriminator"][name], value) for name, value in trained["discriminator"].items())
