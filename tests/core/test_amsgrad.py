"""Adam and AdamW with ``amsgrad``, against ``torch.optim``."""

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

import gan_influence as gi

PAIRS = {
    "adam": (gi.Adam, torch.optim.Adam, {"lr": 0.02, "betas": (0.5, 0.7), "eps": 1e-3, "weight_decay": 0.1}),
    "adamw": (gi.AdamW, torch.optim.AdamW, {"lr": 0.02, "betas": (0.5, 0.7), "eps": 1e-3}),
}
each_pair = pytest.mark.parametrize(("ours", "torchs", "settings"), PAIRS.values(), ids=PAIRS)


@each_pair
def test_seventy_steps_equal_torchs(ours, torchs, settings):
    module, optimizer = Small(), ours(**settings, amsgrad=True)
    reference = torchs(module.parameters(), **settings, amsgrad=True)
    expected = torch_moved(module, reference, range(70))
    state = moved(optimizer, started(optimizer), range(70))
    assert_equal(state[0], expected)
    for row, name in zip(state[1:], ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"], strict=True):
        assert_equal(row, torch.cat([reference.state[p][name].flatten() for p in module.parameters()]))
    assert (state[3] > state[2]).any()
    without = ours(**settings)
    assert (moved(without, started(without), range(70))[0] - expected).abs().max() > 1e-3


@each_pair
def test_several_models_at_once_equal_each_alone(ours, torchs, settings):
    assert_vmap_equals_each_alone(ours(**settings, amsgrad=True))


@each_pair
def test_derivatives_are_those_of_finite_differences(ours, torchs, settings):
    assert_derivatives_are_those_of_finite_differences(ours(**settings, amsgrad=True))


def test_a_frozen_second_moment_trains_the_same_and_is_a_constant():
    exact, frozen = (gi.Adam(0.02, amsgrad=True, second_moment=how) for how in ("exact", "frozen"))
    state = moved(frozen, started(frozen), range(9))
    assert torch.equal(state, moved(exact, started(exact), range(9)))
    step, gradient = torch.tensor(9.0).double(), slope(state[0], 9).requires_grad_()
    (slopes,) = torch.autograd.grad(frozen.update(step, state, gradient)[0].sum(), gradient)
    root = (frozen.update(step, state, gradient)[3] / (1 - 0.999**10)).sqrt()
    assert_equal(slopes, (-0.02 * 0.1 / (1 - 0.9**10) / (root + 1e-8)).detach())


@pytest.mark.parametrize("value", ["frozen", 1, None])
def test_amsgrad_is_true_or_false(value):
    with pytest.raises(ValueError, match="amsgrad must be True or False, got"):
        gi.Adam(amsgrad=value)
