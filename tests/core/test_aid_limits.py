"""What AID rests on, and says where it fails: weight decay in J, a rate to scale with, a series that converges."""

import warnings

import pytest
import torch
from support.games import lqgan, minibatch_mlp, mlp, normal, relative_error, same_bits
from torch import nn

import gan_influence as gi

PAIRS = normal(0, 40, 5), (torch.arange(40) % 3)
TESTS = gi.metrics.AverageLoss(normal(1, 15, 5), torch.arange(15) % 3)


def classifier(optimizer, l2=0.0, steps=400):
    torch.manual_seed(0)
    model = nn.Linear(5, 3).double()
    return gi.train(gi.Game(None, model, "cross_entropy", l2=l2), PAIRS, gi.FullBatch(), steps, optimizer)


def inverse_hessian(trace, rate):
    """By hand: ``grad E . (H + rate I)^-1 grad loss_j / N`` at the end of training."""
    psi = trace.theta().clone()
    inputs, targets = PAIRS

    def costs(psi):
        outputs = inputs @ psi[:15].view(3, 5).T + psi[15:]
        return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")

    def metric(psi):
        outputs = TESTS.inputs @ psi[:15].view(3, 5).T + psi[15:]
        return torch.nn.functional.cross_entropy(outputs, TESTS.targets)

    hessian = torch.autograd.functional.hessian(lambda psi: costs(psi).mean(), psi)
    solved = torch.linalg.solve(hessian + rate * torch.eye(len(psi)).double(), torch.func.grad(metric)(psi))
    return torch.func.jacrev(costs)(psi) @ solved / len(targets)


DECAYED = {
    "sgd": lambda wd: gi.SGD(0.5, weight_decay=wd),
    "momentum": lambda wd: gi.SGD(0.1, momentum=0.8, weight_decay=wd),
    "adam": lambda wd: gi.Adam(0.02, weight_decay=wd),
    "adamw": lambda wd: gi.AdamW(0.02, weight_decay=wd),
    "rmsprop": lambda wd: gi.RMSProp(0.01, weight_decay=wd),
}


@pytest.mark.parametrize("optimizer", DECAYED.values(), ids=DECAYED)
def test_weight_decay_belongs_to_the_curvature(optimizer):
    trace = classifier(optimizer(0.05))
    scores = gi.aid(trace, TESTS, solver="gmres")
    assert relative_error(scores, inverse_hessian(trace, 0.05)) < 1e-8
    assert relative_error(scores, inverse_hessian(trace, 0.0)) > 0.1


def test_weight_decay_is_l2_of_the_same_size():
    decayed, regularised = classifier(gi.SGD(0.5, weight_decay=0.05)), classifier(gi.SGD(0.5), l2=0.05)
    for terms in (1, 7, 2000):
        one, other = gi.aid(decayed, TESTS, terms=terms), gi.aid(regularised, TESTS, terms=terms)
        assert relative_error(one, other) < 1e-12


def test_each_player_has_its_own_weight_decay():
    problem = mlp(rates=(0.1, 0.1))
    pair = gi.SGD(0.1, weight_decay=0.3), gi.SGD(0.1, weight_decay=0.7)
    decayed = problem.train(30, optimizer=pair)
    regularised = problem.but(l2=(0.3, 0.7)).train(30)
    for options in ({"terms": 15}, {"solver": "gmres"}):
        one, other = (gi.aid(trace, problem.metric(), **options) for trace in (decayed, regularised))
        assert relative_error(one, other) < 1e-9


def test_an_optimiser_of_ones_own_tells_its_weight_decay():
    class Own(gi.SGD):
        def update(self, step, state, gradient):
            return super().update(step, state, gradient)

    one, other = classifier(Own(0.5, weight_decay=0.05)), classifier(gi.SGD(0.5, weight_decay=0.05))
    assert same_bits(gi.aid(one, TESTS, terms=9), gi.aid(other, TESTS, terms=9))


RATES_OF_ZERO = {
    "cosine": (gi.SGD(lambda t: 0.05 * (1 + torch.cos(torch.pi * t / 29)) / 2), "generator"),
    "linear": (gi.SGD(lambda t: 0.05 * (29 - t) / 29), "generator"),
    "n-critic": ((gi.SGD(lambda t: torch.where(t % 5 == 4, 0.0, 0.1)), gi.SGD(0.1)), "generator"),
    "discriminator": ((gi.SGD(0.1), gi.SGD(lambda t: 0.1 * (t < 20))), "discriminator"),
}


@pytest.mark.parametrize(("optimizer", "role"), RATES_OF_ZERO.values(), ids=RATES_OF_ZERO)
def test_a_rate_of_zero_at_the_end_asks_for_a_scale(optimizer, role):
    problem = mlp()
    trace = problem.train(30, optimizer=optimizer)
    with pytest.raises(ValueError, match=rf"the {role}'s learning rate is 0 at the last step, 29, .* as scale="):
        gi.aid(trace, problem.metric(), terms=10)
    assert gi.aid(trace, problem.metric(), terms=10, scale=0.05).abs().max() > 0
    assert gi.aid(trace, problem.metric(), solver="gmres").abs().max() > 0  # which needs none


DIVERGING = {
    "wasserstein": lambda: minibatch_mlp(loss="wasserstein", rates=(0.5, 0.5)).train(60, update="alternating"),
    "large-rate": lambda: lqgan(l2=(0.5, 0.5), rates=(0.2, 0.2)).train(5),
}


@pytest.mark.parametrize(("kind", "options"), [("wasserstein", {}), ("large-rate", {"scale": 6.0})])
@pytest.mark.parametrize("terms", [60, [5, 60]])
def test_a_series_that_diverges_warns_with_both_numbers(kind, options, terms):
    trace = DIVERGING[kind]()
    metric = (mlp if trace.game.size > 4 else lqgan)().metric()
    message = r"does not converge at step \d+: the last of its 60 terms has norm \S+, their sum"
    with pytest.warns(RuntimeWarning, match=message):
        gi.aid(trace, metric, terms=terms, **options)


def test_a_series_names_the_stops_at_which_it_diverges():
    problem = lqgan(l2=(0.5, 0.5))
    trace = problem.train(20)
    with pytest.warns(RuntimeWarning, match=r"does not converge at step 5, 20: the last of its 60"):
        gi.aid(trace, problem.metric(), terms=60, at=[5, 20], scale=6.0)


@pytest.mark.parametrize("terms", [1, 5, 300, 2000])
def test_a_series_that_converges_or_is_cut_off_on_purpose_says_nothing(terms):
    problem = lqgan(l2=(0.5, 0.5))
    trace = problem.train(200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gi.aid(trace, problem.metric(), terms=terms)
