"""An optimiser for each group of parameters, against ``torch.optim``'s ``param_groups``."""

import re

import pytest
import torch
from support.quadratics import (
    NAMES,
    SHAPES,
    Small,
    assert_derivatives_are_those_of_finite_differences,
    assert_equal,
    assert_vmap_equals_each_alone,
    moved,
    recorded,
    slope,
    started,
    torch_moved,
)
from torch.nn.utils import clip_grad_norm_

import gan_influence as gi
from gan_influence.optimizers import Clipped, Groups, Optimizer, TorchRates, rates_of

FIRST = torch.tensor(0.0, dtype=torch.float64)
LINES = {"body.weight": 6, "body.bias": 3, "head.weight": 3, "head.bias": 1}


def falling(step):
    return 0.1 / (step + 1)


def by_kind(values):
    """One number for weights and one for biases, as 13."""
    return torch.tensor(
        [values[name.split(".")[1]] for name, n in LINES.items() for _ in range(n)], dtype=torch.float64
    )


def test_the_module_of_these_tests_has_these_parameters():
    assert {name: shape.numel() for name, shape in zip(NAMES, SHAPES, strict=True)} == LINES


def of_names(module, end):
    return [parameter for name, parameter in module.named_parameters() if name.endswith(end)]


PAIRS = {
    "sgd": (gi.SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}, {"lr": 0.02, "momentum": 0.5, "nesterov": True}),
    "rmsprop": (gi.RMSProp, torch.optim.RMSprop, {"eps": 1e-3}, {"lr": 0.02, "eps": 1e-3, "momentum": 0.5}),
    "adamw": (gi.AdamW, torch.optim.AdamW, {"lr": 0.02, "eps": 1e-3}, {"lr": 0.01, "weight_decay": 0.0}),
    "amsgrad": (gi.Adam, torch.optim.Adam, {"eps": 1e-3}, {"eps": 1e-3, "amsgrad": True, "betas": (0.5, 0.7)}),
}
each_pair = pytest.mark.parametrize(("ours", "torchs", "of_weights", "of_biases"), PAIRS.values(), ids=PAIRS)


def grouped(ours, of_weights, of_biases):
    return Groups(ours(**of_weights), {"*.bias": ours(**of_biases)}).fitted(NAMES, SHAPES)


@each_pair
def test_seventy_steps_equal_torchs(ours, torchs, of_weights, of_biases):
    module, optimizer = Small(), grouped(ours, of_weights, of_biases)
    reference = torchs(
        [
            {"params": of_names(module, "weight"), **of_weights},
            {"params": of_names(module, "bias"), **of_biases},
        ]
    )
    expected = torch_moved(module, reference, range(70))
    assert_equal(moved(optimizer, started(optimizer), range(70))[0], expected)


def test_different_optimisers_move_their_own_parameters():
    """Adam on the weights, momentum on the head's bias alone, plain descent on the other."""
    optimizer = Groups(gi.SGD(0.05), {"*weight": gi.Adam(0.02), "head.bias": gi.SGD(0.1, momentum=0.9)})
    optimizer = optimizer.fitted(NAMES, SHAPES)
    module = Small()
    of = dict(module.named_parameters())
    several = [
        torch.optim.Adam(of_names(module, "weight"), lr=0.02),
        torch.optim.SGD([of["head.bias"]], lr=0.1, momentum=0.9),
        torch.optim.SGD([of["body.bias"]], lr=0.05),
    ]

    class All:
        def step(self):
            for one in several:
                one.step()

    expected = torch_moved(module, All(), range(70))
    state = moved(optimizer, started(optimizer), range(70))
    assert optimizer.buffers == 2
    assert_equal(state[0], expected)
    assert (state[1:, 6:9] == 0).all()  # what plain descent remembers: nothing


def test_a_group_is_clipped_by_its_own_length():
    clipped = Clipped(gi.SGD(0.05), norm=0.7)
    optimizer = Groups(gi.SGD(0.05), {"*.bias": clipped}).fitted(NAMES, SHAPES)
    module = Small()
    expected = torch_moved(
        module,
        torch.optim.SGD(module.parameters(), lr=0.05),
        range(70),
        lambda module: clip_grad_norm_(of_names(module, "bias"), 0.7),
    )
    assert_equal(moved(optimizer, started(optimizer), range(70))[0], expected)


def test_groups_can_be_clipped_together():
    of_weights, of_biases = {"lr": 0.05}, {"lr": 0.02, "momentum": 0.5}
    groups = Groups(gi.SGD(**of_weights), {"*.bias": gi.SGD(**of_biases)})
    optimizer = Clipped(groups, norm=2.5).fitted(NAMES, SHAPES)
    module = Small()
    reference = torch.optim.SGD(
        [{"params": of_names(module, "weight"), **of_weights}, {"params": of_names(module, "bias"), **of_biases}]
    )
    expected = torch_moved(module, reference, range(70), lambda module: clip_grad_norm_(module.parameters(), 2.5))
    assert_equal(moved(optimizer, started(optimizer), range(70))[0], expected)
    assert_equal(rates_of(optimizer, FIRST), by_kind({"weight": 0.05, "bias": 0.02}))
    assert not optimizer.elementwise


@each_pair
def test_several_models_at_once_equal_each_alone(ours, torchs, of_weights, of_biases):
    assert_vmap_equals_each_alone(grouped(ours, of_weights, of_biases))


@each_pair
def test_derivatives_are_those_of_finite_differences(ours, torchs, of_weights, of_biases):
    assert_derivatives_are_those_of_finite_differences(grouped(ours, of_weights, of_biases))


@each_pair
def test_a_recorded_update_is_the_update(ours, torchs, of_weights, of_biases):
    optimizer = grouped(ours, of_weights | {"lr": TorchRates(torch_cosine, 0.1, 40)}, of_biases)
    state = moved(optimizer, started(optimizer), range(20))
    inputs = torch.tensor(20.0, dtype=torch.float64), state, slope(state[0], 20)
    assert_equal(recorded(optimizer.update, FIRST, *inputs[1:])(*inputs), optimizer.update(*inputs))


def torch_cosine(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30)


def test_rates_are_one_a_parameter():
    groups = Groups(gi.SGD(0.1), {"*.bias": gi.SGD(falling)}).fitted(NAMES, SHAPES)
    assert callable(groups.lr)
    for k in (0, 3):
        step = torch.tensor(float(k), dtype=torch.float64)
        assert torch.equal(rates_of(groups, step), by_kind({"weight": 0.1, "bias": 0.1 / (k + 1)}))


def test_rates_that_do_not_change_are_no_function():
    groups = Groups(gi.SGD(0.1), {"*.bias": gi.SGD(0.2)}).fitted(NAMES, SHAPES)
    assert not callable(groups.lr)
    assert torch.equal(rates_of(groups, FIRST), by_kind({"weight": 0.1, "bias": 0.2}))


def test_the_weight_decay_is_one_number_a_parameter():
    groups = Groups(gi.AdamW(weight_decay=0.3), {"*.bias": Undecayed()}).fitted(NAMES, SHAPES)
    assert torch.equal(groups.weight_decay, by_kind({"weight": 0.3, "bias": 0.0}))


class Undecayed:
    """Of a reader's own, which knows no weight decay."""

    buffers = 0
    lr = 0.1

    def update(self, step, state, gradient):
        return state - self.lr * gradient.unsqueeze(-2)


def test_groups_within_groups():
    inner = Groups(gi.SGD(0.1, weight_decay=0.5), {"head.*": gi.SGD(falling)})
    groups = Groups(gi.SGD(0.3), {"*.bias": inner}).fitted(NAMES, SHAPES)
    expected = by_kind({"weight": 0.3, "bias": 0.1})
    expected[-1] = 0.05
    assert torch.equal(rates_of(groups, torch.tensor(1.0, dtype=torch.float64)), expected)
    assert groups.weight_decay.tolist() == [0.0] * 6 + [0.5] * 3 + [0.0] * 4


@pytest.mark.parametrize("pattern", ["*", "[bh]*", "????.*"])
def test_the_default_may_be_left_without_parameters(pattern):
    groups = Groups(gi.Adam(0.1), {pattern: gi.SGD(0.2)}).fitted(NAMES, SHAPES)
    assert groups.buffers == 0
    assert rates_of(groups, FIRST).tolist() == [0.2] * 13


def test_before_it_knows_the_parameters_it_is_an_optimiser_that_cannot_be_called():
    groups = Groups(gi.SGD(0.1), {"*.bias": gi.Adam(0.2)})
    assert isinstance(groups, Optimizer)
    assert isinstance(groups.fitted(NAMES, SHAPES), Optimizer)
    assert groups.buffers == 2
    assert groups.lr == 0.1
    with pytest.raises(TypeError, match=re.escape("Groups(...).fitted(names, shapes)")):
        groups.update(FIRST, torch.zeros(3, 13), torch.zeros(13))


UNFIT = {
    "no-match": ({"*.gain": gi.SGD(0.1)}, r"Groups' '\*.gain' matches no parameter: they are body.weight, body.bias, "),
    "module-named": ({"head": gi.SGD(0.1)}, r"Groups' 'head' matches no parameter"),
    "other-case": ({"Body.*": gi.SGD(0.1)}, r"Groups' 'Body.\*' matches no parameter"),
    "twice": (
        {"*.bias": gi.SGD(0.1), "head.*": gi.SGD(0.1)},
        r"Groups' '\*.bias' and 'head.\*' both match 'head.bias': narrow one of them",
    ),
    "twice-by-name": (
        {"head.bias": gi.SGD(0.1), "*": gi.SGD(0.1)},
        r"Groups' 'head.bias' and '\*' both match 'head.bias'",
    ),
}


@pytest.mark.parametrize(("groups", "message"), UNFIT.values(), ids=UNFIT)
def test_patterns_that_do_not_fit_the_parameters_are_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        Groups(gi.SGD(0.1), groups).fitted(NAMES, SHAPES)


BAD = {
    "default": (lambda: Groups(0.1, {}), r"Groups' default must be an optimiser such as SGD\(lr=0.01\), got 0.1"),
    "group": (lambda: Groups(gi.SGD(0.1), {"*.bias": 0.1}), r"Groups' '\*.bias' must be an optimiser such as"),
    "list": (
        lambda: Groups(gi.SGD(0.1), [gi.SGD(0.1)]),
        r'Groups needs its groups as \{"\*.bias": SGD\(lr=0.01\)\}, got',
    ),
    "pattern": (lambda: Groups(gi.SGD(0.1), {0: gi.SGD(0.1)}), r'must be a string such as "\*.bias", got 0'),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_what_is_no_group_is_refused(make, message):
    with pytest.raises(TypeError, match=message):
        make()
