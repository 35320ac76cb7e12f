"""Clipped gradients, against ``torch.nn.utils``."""

import math

import pytest
import torch
from support.quadratics import (
    Small,
    assert_derivatives_are_those_of_finite_differences,
    assert_equal,
    assert_vmap_equals_each_alone,
    moved,
    slope,
    started,
    torch_moved,
)
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

import gan_influence as gi
from gan_influence.optimizers import Clipped, rates_of

INNER = {
    "sgd": (gi.SGD, torch.optim.SGD, {"lr": 0.05}),
    "momentum": (gi.SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}),
    "rmsprop": (gi.RMSProp, torch.optim.RMSprop, {"lr": 0.02, "momentum": 0.5, "centered": True, "eps": 1e-3}),
    "adam": (gi.Adam, torch.optim.Adam, {"lr": 0.02, "eps": 1e-3}),
    "adamw": (gi.AdamW, torch.optim.AdamW, {"lr": 0.02, "eps": 1e-3}),
}
each_inner = pytest.mark.parametrize(("ours", "torchs", "settings"), INNER.values(), ids=INNER)


def torch_clip(norm=None, value=None):
    def clip(module):
        if norm is not None:
            clip_grad_norm_(module.parameters(), norm)
        if value is not None:
            clip_grad_value_(module.parameters(), value)

    return clip


SIZES = {"norm": {"norm": 2.5}, "value": {"value": 0.4}, "both": {"norm": 2.5, "value": 0.4}, "wide": {"norm": 1e3}}
each_size = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)


@each_size
@each_inner
def test_seventy_steps_equal_torchs(ours, torchs, settings, size):
    module = Small()
    expected = torch_moved(module, torchs(module.parameters(), **settings), range(70), torch_clip(**size))
    optimizer = Clipped(ours(**settings), **size)
    assert_equal(moved(optimizer, started(optimizer), range(70))[0], expected)


def test_the_sizes_of_these_tests_clip_some_steps_and_leave_others():
    optimizer, lengths = gi.SGD(0.05), []
    for k in range(70):
        state = moved(optimizer, started(optimizer), range(k))
        lengths.append(float(slope(state[0], k).norm()))
    assert 10 < sum(length > 2.5 for length in lengths) < 70
    assert max(lengths) < 1e3


def test_nested_ones_clip_the_outer_first():
    module = Small()
    torchs = torch.optim.SGD(module.parameters(), lr=0.05)

    def clip(module):
        clip_grad_value_(module.parameters(), 0.4)
        clip_grad_norm_(module.parameters(), 0.9)

    expected = torch_moved(module, torchs, range(70), clip)
    optimizer = Clipped(Clipped(gi.SGD(0.05), norm=0.9), value=0.4)
    assert_equal(moved(optimizer, started(optimizer), range(70))[0], expected)


@each_size
@each_inner
def test_several_models_are_each_clipped_by_their_own_length(ours, torchs, settings, size):
    assert_vmap_equals_each_alone(Clipped(ours(**settings), **size))


@each_size
@each_inner
def test_derivatives_are_those_of_finite_differences(ours, torchs, settings, size):
    assert_derivatives_are_those_of_finite_differences(Clipped(ours(**settings), **size))


@pytest.mark.parametrize("norm", [2.5, 1e-9])
def test_a_gradient_of_zeros_has_finite_slopes_of_every_order(norm):
    """Times ``min(1, norm / (0 + 1e-6))`` the slope of the gradient itself is left."""
    optimizer, step = Clipped(gi.SGD(0.5), norm=norm), torch.tensor(0.0, dtype=torch.float64)

    def theta_after(gradient):
        return optimizer.update(step, torch.zeros(1, 3).double(), gradient)[0]

    zero = torch.zeros(3).double()
    expected = -0.5 * min(1.0, norm / 1e-6) * torch.eye(3).double()
    assert_equal(torch.autograd.functional.jacobian(theta_after, zero), expected)
    twice = torch.func.jacrev(torch.func.jacrev(theta_after))
    assert twice(zero).isfinite().all()
    assert torch.func.jacrev(twice)(zero).isfinite().all()


def test_it_has_the_buffers_the_rates_and_the_decay_of_what_it_clips():
    inner = gi.AdamW(lambda step: 0.1 / (step + 1), weight_decay=0.3, amsgrad=True)
    optimizer = Clipped(inner, norm=1.0)
    assert optimizer.buffers == 3
    assert optimizer.weight_decay == 0.3
    assert rates_of(optimizer, torch.tensor(3.0, dtype=torch.float64)) == 0.025


class Plain:
    """Of a reader's own, without anything but what is asked for."""

    buffers = 0
    lr = 0.1

    def update(self, step, state, gradient):
        return state - self.lr * gradient.unsqueeze(-2)


def test_it_is_elementwise_only_by_value_and_around_one_that_is():
    assert Clipped(gi.SGD(0.1), value=1.0).elementwise
    assert Clipped(Clipped(gi.SGD(0.1), value=1.0), value=2.0).elementwise
    assert not Clipped(gi.SGD(0.1), norm=1.0).elementwise
    assert not Clipped(gi.SGD(0.1), norm=1.0, value=1.0).elementwise
    assert not Clipped(Clipped(gi.SGD(0.1), norm=1.0), value=1.0).elementwise
    assert not Clipped(Plain(), value=1.0).elementwise
    assert Clipped(Plain(), value=1.0).weight_decay == 0.0


class ToldOfItsParameters(Plain):
    def __init__(self, names=None):
        self.names = names

    def fitted(self, names, shapes):
        return ToldOfItsParameters(names)


def test_what_it_clips_is_told_of_its_parameters():
    inner = Clipped(ToldOfItsParameters(), norm=1.0).fitted(["weight"], [torch.Size([2])])
    assert inner.optimizer.names == ["weight"]
    assert inner.norm == 1.0
    assert Clipped(gi.SGD(0.1), value=0.5).fitted([], []) == Clipped(gi.SGD(0.1), value=0.5)


BAD = {
    "nothing": (lambda: Clipped(gi.SGD(0.1)), ValueError, r"Clipped clips nothing: give norm=1.0, value=0.1, or both"),
    "zero": (lambda: Clipped(gi.SGD(0.1), norm=0), ValueError, r"norm must be a finite number above 0, got 0"),
    "negative": (lambda: Clipped(gi.SGD(0.1), value=-1), ValueError, r"value must be a finite number above 0, got -1"),
    "nan": (lambda: Clipped(gi.SGD(0.1), norm=math.nan), ValueError, r"norm must be a finite number above 0, got nan"),
    "bool": (lambda: Clipped(gi.SGD(0.1), norm=True), ValueError, r"norm must be a finite number above 0, got True"),
    "number": (
        lambda: Clipped(0.1, norm=1.0),
        TypeError,
        r"Clipped's optimizer must be an optimiser such as SGD\(lr=0.01\), got 0.1",
    ),
    "class": (lambda: Clipped(dict, norm=1.0), TypeError, r"must be an optimiser such as SGD\(lr=0.01\), got <class"),
    "torchs": (
        lambda: Clipped(torch.optim.SGD(Small().parameters(), lr=0.1), norm=1.0),
        TypeError,
        r"must be an optimiser such as SGD\(lr=0.01\), got SGD",
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_clipped_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
