"""Certified scores against retraining without each row; bounds that a certificate must not fall below."""

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

import gan_influence as gi
from verification import bounds
from verification.certify import certify

normal = gi.datasets.normal_1d


def trained(rows=400, steps=100, seed=0, **options):
    game = gi.Game(*gi.models.lqgan(seed=seed), loss=options.pop("loss", "minimax"))
    given = {"optimizer": gi.SGD(0.03), **options}
    schedule = given.pop("schedule", gi.FullBatch(normal(rows, mean=0.0, seed=seed + 1)))
    return gi.train(game, normal(rows, seed=seed), schedule, steps, **given)


ROWS = np.arange(0, 400, 8)
METRIC = gi.metrics.AverageLogLikelihood(normal(50, seed=7), normal(40, mean=0.0, seed=8))


@pytest.mark.parametrize("seed", range(4))
def test_errors_signs_and_tau_are_never_better_than_retraining_says(seed):
    trace = trained(seed=seed)
    found = certify(trace, METRIC, ROWS, reach=0.1)
    truth = gi.counterfactual(trace, METRIC, [[j] for j in ROWS.tolist()]).numpy()
    kept = np.isfinite(found.errors)
    assert kept.mean() > 0.8
    assert (np.abs(found.scores - truth) <= found.errors).all()
    assert (np.sign(found.scores) == np.sign(truth))[found.signs].all()
    assert 0.5 < found.tau <= kendalltau(found.scores, truth).statistic + 1e-12
    assert np.median(np.abs(found.scores - truth)[kept] / found.errors[kept]) > 0.2


def test_the_correction_takes_most_of_the_error_away():
    trace = trained()
    found = certify(trace, METRIC, np.arange(20), reach=0.1)
    truth = gi.counterfactual(trace, METRIC, [[j] for j in range(20)]).numpy()
    before, after = (np.linalg.norm(one - truth) for one in (found.scores, found.corrected))
    assert after < 0.05 * before
    assert found.rows.tolist() == list(range(20))


def test_a_certificate_that_is_too_sure_is_caught(monkeypatch):
    right = bounds.certificate
    trace = trained()
    truth = gi.counterfactual(trace, METRIC, [[j] for j in ROWS.tolist()]).numpy()

    def too_sure(*arguments, **options):
        found = right(*arguments, **options)
        return bounds.Certificate(np.zeros_like(found.correction), np.zeros_like(found.radius))

    monkeypatch.setattr(bounds, "certificate", too_sure)
    found = certify(trace, METRIC, ROWS, reach=0.1)
    assert (np.abs(found.scores - truth) > found.errors).any()


def test_rows_that_are_given_up_have_no_error():
    found = certify(trained(), METRIC, ROWS, reach=1e-4)
    assert np.isinf(found.errors).any()
    assert not found.signs[np.isinf(found.errors)].any()


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"loss": "non_saturating"}, "minimax"),
        ({"optimizer": gi.SGD(0.03, momentum=0.5)}, "plain SGD"),
        ({"optimizer": gi.Adam(0.01)}, "plain SGD"),
        ({"optimizer": (gi.SGD(0.03), gi.SGD(0.02))}, "one constant rate"),
        ({"update": "alternating"}, "simultaneous"),
        ({"ema_decay": 0.9}, "averaged"),
        ({"schedule": gi.Minibatches(400, 100, (1,))}, "full batches"),
        ({"weights": torch.cat([torch.zeros(1), torch.ones(399)]).double()}, "weights of 1"),
    ],
)
def test_another_run_is_refused_and_told_what_is_needed(options, culprit):
    with pytest.raises(ValueError, match=f"certify needs .*{culprit}"):
        certify(trained(steps=4, **options), METRIC)


def test_another_model_is_refused():
    module = torch.nn.Linear(1, 1).double()
    game = gi.Game(module, torch.nn.Linear(1, 1).double(), loss="minimax")
    trace = gi.train(game, normal(10, seed=0), gi.FullBatch(normal(10, mean=0.0, seed=1)), 3, gi.SGD(0.01))
    with pytest.raises(ValueError, match=r"gi\.models\.lqgan"):
        certify(trace, METRIC)
